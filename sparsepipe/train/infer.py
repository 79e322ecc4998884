"""Inference in a pipeline: the stages and mini-batches of training, with forward passes only.

The weights are those that training would begin with; throughput and latency do not depend on them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sparsepipe.planner.stages import PlannedStage
from sparsepipe.runtime.network import Network
from sparsepipe.runtime.run import run_pipeline
from sparsepipe.schedule.lists import Schedule, build_schedule
from sparsepipe.train.batches import CloudBatches
from sparsepipe.train.summary import steady_state
from sparsepipe.train.workload import Workload
from systems.network.distributed import World
from systems.runs.record import Step
from systems.runs.trace import Tracer


def inference_schedule(stages: Sequence[PlannedStage], steady: int) -> Schedule:
    """Build the lists of actions of all ranks, with `steady` mini-batches between those that fill
    and drain the pipeline."""
    ranks = tuple(stage.ranks for stage in stages)
    return build_schedule("forward", ranks, mini_batches=steady + 2 * len(stages))


def infer_in_pipeline(
    stages: Sequence[PlannedStage], world: World, workload: Workload, tracer: Tracer
) -> Iterator[Step]:
    """Do this rank's part; yields a step for every mini-batch."""
    network = Network(workload.network().to(world.device))
    schedule = inference_schedule(stages, workload.options.steps)
    batches = CloudBatches(workload, world, stages, count=schedule.mini_batches)
    yield from run_pipeline(
        schedule,
        [network.stage(stage.first, stage.end) for stage in stages],
        [stage.shares for stage in stages],
        world,
        batches=batches,
        loss_sum=workload.loss_sum,
        tracer=tracer,
    )
    batches.close()


def summarize_inference(
    schedule: Schedule, everyone: list[list[Step]], dilate: float = 1
) -> dict[str, Any]:
    """The result of a run from the steps of all ranks: throughput and latency in the steady state.

    An emulation stretches time by `dilate`; all durations are divided by it.
    """
    steady = steady_state(schedule, everyone, warm_up=len(schedule.stages), dilate=dilate)
    return {"scheme": schedule.kind, **steady.summary(), "latency_s": steady.latency_s}
