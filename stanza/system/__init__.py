"""Stanza as a system of the testbed; `stanza.system.planning` finds what a job is planned with."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stanza.exchanges import names as exchanges
from stanza.layout import layout_of
from stanza.options import EQUAL, ZERO_STAGES, Options
from stanza.own_options import OWN, has_own_data, own_code
from stanza.planner.plan import Plan, plan as plan_stanza, shared
from stanza.planner.predict import unpredicted
from stanza.system import shaping
from stanza.system.measuring import measure_here, measure_rank
from stanza.system.mixed import profile_of_rank
from stanza.system.planning import HERE, plan_stanza_job, resolved, unknown_figures
from stanza.system.simulation import EMULATING, simulate_job
from systems import by_path
from systems.clusters import cluster
from systems.deepspeed import check_installed
from systems.job import Job
from systems.named_files import absolute_data
from systems.profiles.emulation import Emulation
from systems.runs.record import Step
from systems.runs.trace import Tracer
from systems.system import Command, Opened, Planning, Shaping, Steps, System, Training

if TYPE_CHECKING:
    from systems.network.distributed import World
    from systems.runs.checkpoint import Checkpoints


def _resized(job: Job, world_size: int) -> Job:
    """Keep the number of FC workers and servers, or take as many as the new world allows."""
    options = job.options
    limits = {"fc_workers": world_size // 2, "ps_servers": max(1, world_size - 1)}
    if options.fc_placement == "colocated":
        limits["fc_workers"] = world_size
    numbers = {name: getattr(options, name) for name in limits}
    fitting = {k: min(v, limits[k]) for k, v in numbers.items() if v != "auto"}
    return dataclasses.replace(job, world_size=world_size).with_options(**fitting)


def _plan_measured(jobs: Sequence[Job]) -> list[Plan]:
    """Plan from what is measured of this machine and from a profile of the first job's model."""
    size = jobs[0].world_size
    measured = measure_rank(jobs[0].options, size, jobs[0].device)
    target = measure_here(cluster.load(HERE).with_size(size), measured)
    return [plan_stanza(job.options, size, target, measured) for job in jobs]


def _with_batch_size(job: Job, samples: int) -> Job:
    """The job with so many samples in a step over all ranks with data, whatever its scheme."""
    return job.with_options(global_batch_size=samples, local_batch_size=None)


def _batch_size(job: Job) -> int | None:
    """The samples of a step over all ranks; None where the planner chooses how many have data."""
    options = dataclasses.replace(job.options, batch_shares=EQUAL)  # they change no sum
    if options.global_batch_size is not None:
        return options.global_batch_size
    if options.scheme == "stanza" and "auto" in (options.fc_workers, options.fc_placement):
        return None
    fc_workers = 0 if options.fc_workers == "auto" else options.fc_workers
    with_data = layout_of(options, job.world_size, fc_workers, 1).data_ranks
    return options.samples_per_step(len(with_data))


def _check(job: Job, plan: Plan) -> None:
    """Look for the data and whatever is the user's own, and for DeepSpeed if the scheme needs it.
    torch is imported only to check the user's own code, or a network on images of another shape."""
    if job.options.scheme in ZERO_STAGES:
        check_installed(f"--stanza.scheme {job.options.scheme}")
    if own_code(job.options) or job.options.image_shape:
        from stanza.train.workload import check_workload

        check_workload(job.options, plan.layout, job.seed)
        return
    from stanza.train.data import data_for

    data_for(job.options, plan.layout, job.seed)


def _open(job: Job, plan: Plan, emulation: Emulation | None) -> Opened:
    """Prepare real layers and data, or stand-ins that wait as long as the profile says."""
    from stanza.train import loop as train
    from stanza.train.emulated import emulated_workload
    from stanza.train.workload import Workload, real_workload

    options = shared(job.options, plan)

    def workload_of(rank: int) -> Workload:
        if emulation is None:
            return real_workload(options, plan.layout, job.seed)
        profile = profile_of_rank(job, plan, rank)
        return emulated_workload(options, plan.layout, profile, emulation, plan.devices)

    workload = workload_of(0)

    def steps(world: "World", tracer: Tracer, checkpoints: "Checkpoints") -> Iterator[Step]:
        return train.training_steps(
            options,
            plan.layout,
            world,
            workload_of(world.rank) if plan.devices else workload,
            seed=job.seed,
            transport=job.transport,
            tracer=tracer,
            checkpoints=checkpoints,
        )

    cut = "" if options.cut_dtype == "float32" else f", cut in {options.cut_dtype}"
    exchange = "" if options.exchange == exchanges.PLAIN else f", {options.exchange}"
    return Opened(
        scheme=options.scheme_name + cut + exchange,
        roles=plan.layout.describe(),
        data=workload.data.kind,
        # Only a worker with the whole model has the loss of its own samples.
        work=Steps(run=steps, last=job.options.steps, shows_loss=plan.layout.roles[0] == "worker"),
    )


def _summarize(
    job: Job, plan: Plan, everyone: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """The result of a run; see `stanza.train.summary`."""
    from stanza.train.summary import summarize_training

    options = shared(job.options, plan)
    return summarize_training(options, plan, everyone, emulation or Emulation())


def _without_checkpoints(job: Job) -> str | None:
    """Say why a job cannot save checkpoints: its scheme is DeepSpeed's, its ranks have copies of
    the model that differ, or its exchange keeps what it has lost."""
    options = job.options
    if options.scheme in ZERO_STAGES:
        return f"--stanza.scheme {options.scheme}"
    if options.ps_consistency != "synchronous":
        return f"--stanza.ps-consistency {options.ps_consistency}"
    if exchanges.remembers(options.exchange):
        return f"--stanza.exchange {options.exchange}"
    return None


def _no_prediction(job: Job) -> str:
    """Say why the plan of a job holds no step time."""
    if job.options.scheme == "single":
        return "one process has no schedule to predict"
    why = unpredicted(job.options)
    if why is not None:
        return why
    return (
        "the planner was not needed, and no figures of this machine were there: give a profile "
        "made with `testbed profile stanza` and a --cluster that states its link, or "
        "--stanza.fc-workers auto, which measures both"
    )


def _absolute_paths(options: Options, folders: Sequence[Path]) -> Options:
    """The options with absolute paths of the data and of the user's own code."""
    named = {name: getattr(options, name) for name in OWN}
    changed: dict[str, Any] = {
        name: value and by_path.absolute(value, folders) for name, value in named.items()
    }
    absolute = by_path.absolute if has_own_data(options) else absolute_data
    return dataclasses.replace(options, data=absolute(options.data, folders), **changed)


SYSTEM = System(
    name="stanza",
    options=Options,
    open=_open,
    rank_modules=(
        "stanza.train.loop",
        "stanza.train.emulated",
        "stanza.train.workload",
        "torch.fx.experimental.symbolic_shapes",  # a dry run on the meta device needs it, and sympy
    ),
    check=_check,
    batch_size_option="stanza.global-batch-size",
    batch_size=_batch_size,
    with_batch_size=_with_batch_size,
    planning=Planning(
        plan_type=Plan,
        plan=lambda job, may_measure: plan_stanza_job(job, may_measure=may_measure, in_order=True),
        plan_measured=_plan_measured,
        resized=_resized,
        resolved=resolved,
        roles=lambda job, plan: plan.layout.roles,
    ),
    training=Training(
        summarize=_summarize, without_checkpoints=_without_checkpoints, no_prediction=_no_prediction
    ),
    emulating=EMULATING,
    shaping=Shaping(
        profiled=shaping.profiled,
        profile=shaping.profile,
        plan=shaping.plan,
        simulated_step_s=shaping.simulated_step_s,
    ),
    simulate=simulate_job,
    measured_first=unknown_figures,
    absolute_paths=_absolute_paths,
    code_named=lambda options: tuple(filter(by_path.is_foreign, own_code(options))),
    experiments="stanza.experiments:EXPERIMENTS",
    paper="stanza.experiments:PAPER",
    commands={
        "plan stanza": Command(
            main="stanza.system.plan_command:main", what="predict every scheme's step time, choose"
        ),
        "profile stanza": Command(
            main="stanza.system.profile_command:main",
            what="measure a model's layers on this machine",
        ),
    },
    doctor="stanza.system.doctor:checks",
)
