"""Training in a pipeline: the network and data of `one_process`, with stages on several ranks.

Batch normalisation takes the statistics of a replica's part of a micro-batch (`part`, see
`sparsepipe.runtime.run`). Every rank makes the samples that it needs (`sparsepipe.train.batches`).
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from sparsepipe.data.bad_files import BadFiles
from sparsepipe.options import Options
from sparsepipe.planner.stages import PlannedStage, ScheduleChoice
from sparsepipe.runtime.network import Network
from sparsepipe.runtime.run import collect_weights, run_pipeline
from sparsepipe.train.batches import BatchesFrom, CloudBatches
from sparsepipe.train.one_process import last_step
from sparsepipe.train.optimizers import first_trained, make_optimizer, optimizers_of
from sparsepipe.train.stages import schedule_of
from sparsepipe.train.summary import fill_mini_batches, steady_state
from sparsepipe.train.workload import Workload
from systems import by_path, schema
from systems.measure import spread
from systems.network.distributed import World
from systems.runs.checkpoint import Checkpoints
from systems.runs.record import Step
from systems.runs.state import State
from systems.runs.trace import Tracer


def train_in_pipeline(
    stages: Sequence[PlannedStage],
    choice: ScheduleChoice,
    world: World,
    workload: Workload,
    tracer: Tracer,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Step]:
    """Train; yields a step for every mini-batch, then on rank 0 the `last_step` of the network.

    The pipeline runs empty wherever a checkpoint is made, also in a run that nothing interrupts.
    So an asynchronous one has no older weight versions to save, and a resumed run goes on exactly
    as one without interruption.
    """
    options, checkpoints = workload.options, checkpoints or Checkpoints.off(world)
    first, first_batch = checkpoints.first_step, checkpoints.first_batch(options.batch_size)
    segments = list(checkpoints.segments(options.steps))
    model = workload.network().to(world.device)
    network = Network(model)
    modules = [network.stage(stage.first, stage.end) for stage in stages]
    mine = [
        module for stage, module in zip(stages, modules, strict=True) if world.rank in stage.ranks
    ]
    state = State(model, world.rank)
    optimizers = optimizers_of(mine, lambda parameters: make_optimizer(options, parameters, first))
    for module in mine:
        state.add(module, optimizers.get(first_trained(module)))
    checkpoints.restore_model(model)
    checkpoints.restore(state)
    batches = CloudBatches(
        workload,
        world,
        stages,
        choice.micro_batches,
        first=first_batch,
        count=options.steps - first,
    )
    began = time.perf_counter()
    # The pipeline fills and drains once between two checkpoints.
    for begin, end in segments:
        steps = run_pipeline(
            schedule_of(stages, choice, end - begin),
            modules,
            [stage.shares for stage in stages],
            world,
            batches=BatchesFrom(batches, begin - first),
            loss_sum=workload.loss_sum,
            optimizer=lambda parameters: optimizers[id(next(iter(parameters)))],
            tracer=tracer,
        )
        for step in steps:
            number = begin + step.index
            yield Step(number, _loss_over_samples(step.metrics, batches.count(number - first)))
        seen = (first_batch + end - first) * options.batch_size
        checkpoints.save(end, options.steps, state, seen)
    batches.close()
    collect_weights(schedule_of(stages, choice, 1), modules, world)
    _collect_bad_files(workload.data.bad_files, world)
    if world.rank == 0:
        yield last_step(model, workload, world, began, first)


def _collect_bad_files(bad_files: BadFiles, world: World) -> None:
    """Tell rank 0 which files the others could not read: nobody has read all of them."""
    everyone: list[list[Path]] = [[] for _ in range(world.world_size)]
    with world.meeting("the end of collecting the bad files"):
        dist.all_gather_object(everyone, bad_files.paths, group=world.everyone)
    bad_files.add(itertools.chain(*everyone))


def _loss_over_samples(metrics: Mapping[str, float], labels: int) -> Mapping[str, float]:
    """The metrics of a step whose `loss_sum` is over samples, also where voxels have labels."""
    if "loss_sum" not in metrics:
        return metrics
    return {**metrics, "loss_sum": metrics["loss_sum"] * metrics["samples"] / labels}


def summarize_pipeline(
    options: Options,
    stages: Sequence[PlannedStage],
    choice: ScheduleChoice,
    everyone: list[list[Step]],
) -> dict[str, Any]:
    """The result of a run from the steps of all ranks: times, losses, utilisation, accuracy.

    If the run continued a checkpoint, times are those of the steps since then.
    """
    *trained, totals = everyone[0]
    first = int(totals.metrics["resumed_step"])
    timed = [[s for s in steps if s.index >= first] for steps in (trained, *everyone[1:])]
    schedule = schedule_of(stages, choice, options.steps - first)
    warm_up = min(fill_mini_batches(schedule), (schedule.mini_batches - 1) // 2)
    steady = steady_state(schedule, timed, warm_up)
    first_stage = [step for rank in stages[0].ranks for step in timed[rank]]
    loss_sums: defaultdict[int, float] = defaultdict(float)
    for step in itertools.chain(trained, *everyone[1:]):
        loss_sums[step.index] += step.metrics.get("loss_sum", 0.0)
    return {
        "scheme": choice.name,
        "model": by_path.short(options.model),
        "stages": [schema.dump(stage) for stage in stages],
        "micro_batches": choice.micro_batches,
        "step_s": schema.dump(spread(steady.step_s)),
        "samples_per_s": steady.samples_per_s,
        "voxels_per_step": sum(s.metrics["voxels"] for s in first_stage) / schedule.mini_batches,
        "utilisation": steady.utilisation,
        "loss": [loss_sums[step.index] / step.metrics["samples"] for step in trained],
        **totals.metrics,
    }
