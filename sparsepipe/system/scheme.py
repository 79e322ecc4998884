"""What the ways to run a sparse network have in common: their plan, and what each has to offer."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsepipe.options import Options
from sparsepipe.planner import plan as planner
from sparsepipe.planner.stages import PlannedStage, ScheduleChoice
from systems import by_path
from systems.job import Job
from systems.profiles.emulation import Emulation
from systems.runs.record import Step
from systems.runs.trace import Tracer
from systems.system import Opened, Steps

if TYPE_CHECKING:  # torch is for ranks; the process that plans and starts them does without
    from sparsepipe.train.workload import Workload
    from systems.network.distributed import World
    from systems.runs.checkpoint import Checkpoints

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
"""What a job calls the options of `testbed plan sparsepipe`."""
MANY = 8
"""Where there are more ranks than these, those in a row are written as the first and the last."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which rank does what. One process does everything where there are neither stages nor a
    pipeline."""

    stages: tuple[PlannedStage, ...] = ()
    """The stages of a pipeline that computes on this machine."""
    schedule: ScheduleChoice | None = None
    """The schedule of the same pipeline."""
    pipeline: planner.Plan | None = None
    """The plan of a pipeline on another cluster, which is emulated or simulated here. With stages,
    they are its own: it trains on a shaped cluster."""


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
        "`testbed plan sparsepipe` predicts one for a cluster"
    )
    """Why the result holds no predicted step time."""


def opener(
    title: Callable[[Job, Plan], str],
    run: Callable[[Job, Plan, "World", "Workload", Tracer, "Checkpoints"], Iterator[Step]],
    *,
    who: str = "",
    shows_loss: bool = False,
) -> Callable[[Job, Plan, Emulation | None], Opened]:
    """A `Scheme.open` for computation on real clouds.

    Args:
        title: names the way in words, for the first line of a run.
        run: does the part of one rank, and yields every step.
        who: which rank does what, in words, where the plan has no stages.
        shows_loss: see `systems.system.Steps`.
    """

    def open_part(job: Job, plan: Plan, emulation: Emulation | None) -> Opened:
        from sparsepipe.train.workload import open_workload

        workload = open_workload(job.options, job.seed)

        def steps(world: "World", tracer: Tracer, checkpoints: "Checkpoints") -> Iterator[Step]:
            return run(job, plan, world, workload, tracer, checkpoints)

        return Opened(
            scheme=title(job, plan),
            roles=stages_in_words(plan.stages) or who,
            data=workload.data.kind,
            work=Steps(run=steps, last=job.options.steps, shows_loss=shows_loss),
        )

    return open_part


def stages_in_words(stages: Sequence[PlannedStage]) -> str:
    """The layers and the ranks of every stage."""
    return "; ".join(
        f"stage {number}, layers {stage.first}-{stage.end - 1}, on {ranks_in_words(stage.ranks)}"
        for number, stage in enumerate(stages)
    )


def ranks_in_words(ranks: Sequence[int]) -> str:
    """Ranks between commas; many of them in order, those that follow one another as 0-511."""
    if len(ranks) <= MANY:
        return ",".join(map(str, ranks))
    present, runs = set(ranks), sorted(ranks)
    firsts = [rank for rank in runs if rank - 1 not in present]
    lasts = [rank for rank in runs if rank + 1 not in present]
    return ",".join(
        f"{first}-{last}" if last > first else str(first)
        for first, last in zip(firsts, lasts, strict=True)
    )


def network_in_words(options: Options) -> str:
    """The network, its width and what computes its convolutions, in words."""
    return f"{by_path.short(options.model)} x {options.width:g}, {options.backend} backend"
