"""What the ways to run a sparse network have in common: their plan, and what each has to offer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from launch.drivers import Opened, Steps
from launch.job import Job
from sparsepipe.options import Options
from sparsepipe.planner import plan as planner
from sparsepipe.planner.stages import PlannedStage, ScheduleChoice
from sparsepipe.train.workload import Workload, open_workload
from systems.network.distributed import World
from systems.profiles.emulated import Emulation
from systems.runs.checkpoint import Checkpoints
from systems.runs.record import Step
from systems.runs.trace import Tracer
from systems.schema import InputError

NAMED_HERE = {
    name: f"sparsepipe.{name}"
    for name in (
        "profiles",
        "devices",
        "bandwidth-bits-per-s",
        "batch-size",
        "schedule",
        "micro-batches",
        "virtual-stages",
    )
}
"""What a job calls the options of `launch plan sparsepipe`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which rank does what. One process does everything where there are no stages."""

    stages: tuple[PlannedStage, ...] = ()
    """The stages of a pipeline that computes on this machine."""
    schedule: ScheduleChoice | None = None
    """The schedule of the same pipeline."""
    pipeline: planner.Plan | None = None
    """The plan of a pipeline on another cluster, which is emulated or simulated here."""


Run = Callable[[World, Workload, Tracer, Checkpoints], Iterator[Step]]
"""Does what one rank has to do, and yields every step."""


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One way to run a sparse network: everything in which it differs from the other ways."""

    plan: Callable[[Job, bool], Plan]
    """Plans a job. The flag says whether layers may be timed on this machine first."""
    roles: Callable[[Job, Plan], list[str]]
    """Names the role of every rank that works, for messages."""
    open: Callable[[Job, Plan, Emulation | None], Opened]
    """Prepares the part of this rank."""
    summarize: Callable[[Job, Plan, list[list[Step]], Emulation | None], dict[str, Any]]
    """Makes the result of a run from the steps of every rank."""
    without_checkpoints: str | None = None
    """The flag that chooses this way, if it saves no checkpoints."""
    no_prediction: str = (
        "what runs here is cut by layer times of this machine, and no planner predicts its step; "
        "`launch plan sparsepipe` predicts one for a cluster"
    )
    """Why the result holds no predicted step time."""


def opened(job: Job, run: Run, *, name: str, roles: str, shows_loss: bool = False) -> Opened:
    """The part of this rank in a run that computes on real clouds.

    Args:
        name: the scheme in words.
        roles: which rank does what, in words.
        shows_loss: see `launch.drivers.Steps`.
    """
    workload = open_workload(job.sparsepipe, job.seed)

    def steps(world: World, tracer: Tracer, checkpoints: Checkpoints) -> Iterator[Step]:
        return run(world, workload, tracer, checkpoints)

    return Opened(
        scheme=name,
        roles=roles,
        data=workload.data.kind,
        work=Steps(run=steps, last=job.sparsepipe.steps, shows_loss=shows_loss),
    )


def network_in_words(options: Options) -> str:
    """The network, its width and what computes its convolutions."""
    return f"{options.model} x {options.width:g}, {options.backend} backend"


def stages_in_words(stages: Sequence[PlannedStage]) -> str:
    """The layers and the ranks of every stage."""
    return "; ".join(
        f"stage {number}, layers {stage.first}-{stage.end - 1}, on "
        + ",".join(str(replica.rank) for replica in stage.replicas)
        for number, stage in enumerate(stages)
    )


def check_several_ranks(job: Job) -> None:
    """Refuse a pipeline of one rank.

    Raises:
        InputError: the job has one rank.
    """
    if job.world_size < 2:
        raise InputError(f"--world-size {job.world_size}: a pipeline needs ranks; give 2 or more")
