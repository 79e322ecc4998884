"""`--sparsepipe.scheme deepspeed`: the baseline, DeepSpeed's pipeline around the dense twin."""

from collections.abc import Iterator
from typing import Any

from launch.drivers import Opened
from launch.drivers.sparsepipe.scheme import Plan, Scheme, check_several_ranks, opened
from launch.job import Job
from sparsepipe.train import deepspeed_baseline as baseline
from sparsepipe.train.workload import Workload
from systems.network.distributed import World
from systems.profiles.emulated import Emulation
from systems.runs.checkpoint import Checkpoints
from systems.runs.record import Step
from systems.runs.trace import Tracer


def _plan(job: Job, may_measure: bool) -> Plan:
    """Check the job; DeepSpeed itself cuts the layers."""
    check_several_ranks(job)
    baseline.check(job.sparsepipe)
    return Plan()


def _open(job: Job, plan: Plan, emulation: Emulation | None) -> Opened:
    """Load the clouds, which DeepSpeed will see as dense volumes."""
    options = job.sparsepipe

    def train(
        world: World, workload: Workload, tracer: Tracer, checkpoints: Checkpoints
    ) -> Iterator[Step]:
        return baseline.run(options, world, workload)

    name = (
        f"DeepSpeed's PipelineModule, dense twin of {options.model} x {options.width:g}, "
        f"{baseline.side(options.voxel_size)}^3 cells"
    )
    return opened(job, train, name=name, roles="a stage a rank")


def _summarize(
    job: Job, plan: Plan, everyone: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """The result of a run from the steps of rank 0, which has the loss of all."""
    return baseline.summarize(job.sparsepipe, everyone[0])


DEEPSPEED = Scheme(
    plan=_plan,
    roles=lambda job, plan: [f"stage {rank}" for rank in range(job.world_size)],
    open=_open,
    summarize=_summarize,
    without_checkpoints="--sparsepipe.scheme deepspeed",
    no_prediction="the planner knows no pipelines of DeepSpeed",
)
