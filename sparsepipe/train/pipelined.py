"""Training in a pipeline: `sparsepipe.train.one_process`'s network and data, a stage or several on
every rank.

Batch normalisation takes the statistics of what a replica has of a micro-batch (`part`, see
`sparsepipe.pipeline.run`). Every rank makes the mini-batches, which are the same on all of them:
the first stage reads the clouds, the last the labels, and all of them how many voxels each cloud
has.
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsepipe.options import Options
from sparsepipe.pipeline.network import Network
from sparsepipe.pipeline.run import collect_weights, run_pipeline
from sparsepipe.pipeline.values import Value, features_of
from sparsepipe.planner.stages import PlannedStage, ScheduleChoice
from sparsepipe.train.batches import BatchesFrom, CloudBatches
from sparsepipe.train.one_process import last_step, make_optimizer
from sparsepipe.train.stages import schedule_of
from sparsepipe.train.summary import fill_mini_batches, step_times, utilisation
from sparsepipe.train.workload import Workload
from systems import schema
from systems.measure import spread
from systems.network.distributed import World
from systems.runs.checkpoint import Checkpoints
from systems.runs.record import Step
from systems.runs.state import State
from systems.runs.trace import Tracer


def train_in_pipeline(
    stages: Sequence[PlannedStage],
    kind: ScheduleChoice,
    world: World,
    workload: Workload,
    tracer: Tracer,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Step]:
    """Train; yields every mini-batch, on rank 0 then a last step with
    `sparsepipe.train.one_process.train_in_one_process`'s totals, of the whole network.

    The pipeline runs empty wherever a checkpoint is made, in a run that nothing interrupts too: an
    asynchronous one then has no older weights to save, and goes on as it would have.
    """
    options, checkpoints = workload.options, checkpoints or Checkpoints.off(world)
    first, first_batch = checkpoints.first_step, checkpoints.first_batch(options.batch_size)
    segments = list(checkpoints.segments(options.steps))
    model = workload.network().to(world.device)
    network = Network(model)
    modules = [network.stage(stage.first, stage.end) for stage in stages]
    shares = [[replica.share for replica in stage.replicas] for stage in stages]
    mine = [
        module
        for stage, module in zip(stages, modules, strict=True)
        if world.rank in (replica.rank for replica in stage.replicas)
    ]
    state = State(model, world.rank)
    optimizers = _optimizers(options, mine, first, state)
    checkpoints.restore_model(model)
    checkpoints.restore(state)
    batches = CloudBatches(workload, world.device, first_batch)
    began = time.perf_counter()
    for begin, end in segments:
        steps = run_pipeline(
            schedule_of(stages, kind, end - begin),
            modules,
            shares,
            world,
            batches=BatchesFrom(batches, begin - first),
            loss_sum=loss_sum,
            make_optimizer=lambda parameters: optimizers[id(next(iter(parameters)))],
            tracer=tracer,
        )
        for step in steps:
            yield Step(begin + step.index, step.metrics)
        seen = (first_batch + end - first) * options.batch_size
        checkpoints.save(end, options.steps, state, seen)
    batches.close()
    collect_weights(schedule_of(stages, kind, 1), modules, world)
    if world.rank == 0:
        yield last_step(model, workload, world, began, first)


def _optimizers(
    options: Options, modules: Sequence[nn.Module], first_step: int, state: State
) -> dict[int, torch.optim.Optimizer]:
    """One for each module with parameters, by the id of the first of them; all go into `state`."""
    made: dict[int, torch.optim.Optimizer] = {}
    for module in modules:
        own, parameters = None, list(module.parameters())
        if parameters:  # a pooling alone has none
            own = made[id(parameters[0])] = make_optimizer(options, parameters, first_step)
        state.add(module, own)
    return made


def loss_sum(output: Value, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [b, classes], summed over the clouds."""
    return nn.functional.cross_entropy(features_of(output), labels, reduction="sum")


def summarize_pipeline(
    options: Options,
    stages: Sequence[PlannedStage],
    kind: ScheduleChoice,
    everyone: list[list[Step]],
) -> dict[str, Any]:
    """The result of a run from all ranks' steps: times, losses, how busy ranks were, accuracy.

    Of a run that went on from a checkpoint, times are of the steps since then.
    """
    *trained, totals = everyone[0]
    first = int(totals.metrics["resumed_step"])
    timed = [[s for s in steps if s.index >= first] for steps in (trained, *everyone[1:])]
    schedule = schedule_of(stages, kind, options.steps - first)
    edge = min(fill_mini_batches(schedule), (schedule.mini_batches - 1) // 2)
    window = range(edge, schedule.mini_batches - edge)
    seconds = step_times(schedule, timed, edge)
    loss_sums: defaultdict[int, float] = defaultdict(float)
    for step in itertools.chain(trained, *everyone[1:]):
        loss_sums[step.index] += step.metrics.get("loss_sum", 0.0)
    return {
        "scheme": kind.name,
        "model": options.model,
        "stages": [schema.dump(stage) for stage in stages],
        "micro_batches": kind.micro_batches,
        "step_s": schema.dump(spread(seconds)),
        "samples_per_s": sum(timed[0][m].metrics["samples"] for m in window) / sum(seconds),
        "voxels_per_step": sum(
            step.metrics["voxels"] for replica in stages[0].replicas for step in timed[replica.rank]
        )
        / schedule.mini_batches,
        "utilisation": utilisation(timed, window),
        "loss": [loss_sums[step.index] / step.metrics["samples"] for step in trained],
        **totals.metrics,
    }
