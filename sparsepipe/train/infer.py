"""Inference in a pipeline: the stages and mini-batches of training, forward only.

Weights are those that training would begin with; throughput and latency do not depend on them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sparsepipe.pipeline.network import Network
from sparsepipe.pipeline.run import run_pipeline
from sparsepipe.planner.stages import PlannedStage
from sparsepipe.schedule.lists import Schedule, build_schedule
from sparsepipe.train import summary
from sparsepipe.train.batches import CloudBatches
from sparsepipe.train.pipelined import loss_sum
from sparsepipe.train.workload import Workload
from systems import schema
from systems.measure import spread
from systems.network.distributed import World
from systems.runs.record import Step
from systems.runs.trace import Tracer


def inference_schedule(stages: Sequence[PlannedStage], steady: int) -> Schedule:
    """The lists of all ranks: `steady` mini-batches between those that fill and drain."""
    ranks = tuple(tuple(replica.rank for replica in stage.replicas) for stage in stages)
    return build_schedule("forward", ranks, mini_batches=steady + 2 * len(stages))


def infer_in_pipeline(
    stages: Sequence[PlannedStage], world: World, workload: Workload, tracer: Tracer
) -> Iterator[Step]:
    """This rank's part; yields every mini-batch."""
    network = Network(workload.network().to(world.device))
    batches = CloudBatches(workload, world.device)
    yield from run_pipeline(
        inference_schedule(stages, workload.options.steps),
        [network.stage(stage.first, stage.end) for stage in stages],
        [[replica.share for replica in stage.replicas] for stage in stages],
        world,
        batches=batches,
        loss_sum=loss_sum,
        tracer=tracer,
    )
    batches.close()


def summarize_inference(
    schedule: Schedule, everyone: list[list[Step]], dilate: float = 1
) -> dict[str, Any]:
    """Throughput and latency of the steady state, with durations divided by `dilate`."""
    edge = len(schedule.stages)
    found = summary.summarize_steady_state(schedule, everyone, warm_up=edge)
    seconds = [s / dilate for s in summary.step_times(schedule, everyone, edge)]
    window = range(edge, schedule.mini_batches - edge)
    return {
        "scheme": schedule.kind,
        "step_s": schema.dump(spread(seconds)),
        "mean_step_s": found["step_s"] / dilate,
        "samples_per_s": found["samples_per_s"] * dilate,
        "latency_s": found["latency_s"] / dilate,
        "utilisation": summary.utilisation(everyone, window),
    }
