"""Stanza as a system of the testbed; `stanza.system.planning` finds what a job is planned with."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from stanza.layout import layout_of
from stanza.models import is_own
from stanza.options import OWN, ZERO_STAGES, Options
from stanza.planner.plan import Plan, costs_at, load_profile, plan as plan_stanza
from stanza.planner.simulated import played_plan
from stanza.planner.simulated.steps import STEPS
from stanza.system.planning import (
    HERE,
    measure_link,
    measure_shared,
    plan_stanza_job,
    planning_basis,
    resolved,
    unknown_figures,
)
from systems import by_path
from systems.clusters import cluster
from systems.clusters.faults import NONE
from systems.clusters.sized import link_rates_of, simulated_cluster
from systems.clusters.topology import Topology
from systems.deepspeed import check_installed
from systems.job import Job
from systems.named_files import absolute_data
from systems.profiles.emulation import Emulation
from systems.runs.record import Step
from systems.runs.trace import Tracer
from systems.schema import InputError
from systems.system import (
    EMULATED_STEP_S,
    Command,
    Emulating,
    Opened,
    Planning,
    Simulated,
    Steps,
    System,
    Training,
)

if TYPE_CHECKING:
    from systems.network.distributed import World
    from systems.runs.checkpoint import Checkpoints

MANY_MESSAGES = 2.0
"""Emulated steps last this many times longer where every rank sends to every other one, as with
servers beside all workers and with columns: so many messages keep the cores here busy."""


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
    """Plan from the loopback link and from a profile of the first job's model, which all ranks
    share."""
    size = jobs[0].world_size
    target = cluster.load(HERE).with_size(size).with_link(measure_link(size))
    measured = measure_shared(jobs[0].options, size)
    target = target.with_kind(measured.device)
    return [plan_stanza(job.options, size, target, measured) for job in jobs]


def _with_batch_size(job: Job, samples: int) -> Job:
    """The job with so many samples in a step over all ranks with data, whatever its scheme."""
    return job.with_options(global_batch_size=samples, local_batch_size=None)


def _batch_size(job: Job) -> int | None:
    """The samples of a step over all ranks; None where the planner chooses how many have data."""
    options = job.options
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
    if job.options.own_code or job.options.image_shape:
        from stanza.train.workload import check_workload

        check_workload(job.options, plan.layout, job.seed)
        return
    from stanza.train.data import data_for

    data_for(job.options, plan.layout, job.seed)


def _open(job: Job, plan: Plan, emulation: Emulation | None) -> Opened:
    """Prepare real layers and data, or stand-ins that wait as long as the profile says."""
    from stanza.train import loop as train
    from stanza.train.emulated import emulated_workload
    from stanza.train.workload import real_workload

    if emulation is None:
        workload = real_workload(job.options, plan.layout, job.seed)
    else:
        profile = load_profile(job.profile or job.options.model)
        workload = emulated_workload(job.options, plan.layout, profile, emulation)

    def steps(world: "World", tracer: Tracer, checkpoints: "Checkpoints") -> Iterator[Step]:
        return train.training_steps(
            job.options,
            plan.layout,
            world,
            workload,
            seed=job.seed,
            transport=job.transport,
            tracer=tracer,
            checkpoints=checkpoints,
        )

    precision = job.options.cut_dtype
    cut = "" if precision == "float32" else f", cut in {precision}"
    return Opened(
        scheme=job.options.scheme_name + cut,
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

    return summarize_training(job.options, plan, everyone, emulation or Emulation())


def _without_checkpoints(job: Job) -> str | None:
    """The schemes of DeepSpeed save no checkpoints."""
    scheme = job.options.scheme
    return f"--stanza.scheme {scheme}" if scheme in ZERO_STAGES else None


def _no_prediction(job: Job) -> str:
    """Why the plan of a job holds no step time."""
    if job.options.scheme == "single":
        return "one process has no schedule to predict"
    return (
        "the planner was not needed, and no figures of this machine were there: give a profile "
        "made with `testbed profile stanza` and a --cluster that states its link, or "
        "--stanza.fc-workers auto, which measures both"
    )


def _simulate(job: Job) -> Simulated:
    """Plan a job and play the plan. What is not known of cluster and model is measured first."""
    simulated = simulated_cluster(job.cluster, job.world_size)
    basis = planning_basis(job, measure=True, target=simulated.planned)
    assert basis is not None  # measured if need be
    target, profile = basis
    plan = plan_stanza(job.options, job.world_size, target, profile)
    job = resolved(job, plan)
    costs, options, layout = costs_at(job.options, profile), job.options, plan.layout
    network = simulated.network(target)
    faults = network.faults if isinstance(network, Topology) else NONE
    steps = options.steps if faults else STEPS
    played = played_plan(options, layout, costs, network, steps=steps)
    with_faults: dict[str, Any] = {}
    if isinstance(network, Topology) and faults:
        healthy = played_plan(options, layout, costs, network.without_faults(), steps=steps)
        with_faults = {
            "faults": str(faults),
            "steps_s": played.steps_s,
            "step_s_without_faults": mean(healthy.steps_s),
        }
    return Simulated(
        job=job,
        plan=plan,
        spans=played.timeline.spans(),
        result={
            "scheme": job.options.scheme_name,
            "step_s": played.step_s,
            "samples_per_step": played.samples,
            "samples_per_s": played.samples_per_s,
            "predicted_step_s": _predicted_step_s(plan),
            "cluster": dataclasses.asdict(
                target if simulated.topology is None else simulated.cluster
            ),
            **with_faults,
        },
        what=f"{job.options.scheme_name} | world size {job.world_size}: {plan.layout.describe()} "
        f"| {job.options.model}, profile {profile.device}, cluster {target.name}",
    )


def _plan_emulated(job: Job) -> Plan:
    """Plan from the profile of the model.

    Raises:
        InputError: there is no profile, or DeepSpeed would have to be emulated.
    """
    if job.options.scheme in ZERO_STAGES:
        raise InputError(f"--stanza.scheme {job.options.scheme}: is not emulated; use testbed run")
    link_rates_of(job.cluster, job.world_size, Emulation())  # raises if they are not known
    if is_own(job.options.model):
        from stanza.train.data import input_of

        input_of(job.options)  # raises if nobody says, which the summary would otherwise
    basis = planning_basis(job, measure=False)
    if basis is None:
        raise InputError(
            f"--stanza.model {job.options.model}: no profile says how long its layers wait; make "
            "one with `testbed profile stanza` and give it with --profile"
        )
    return plan_stanza(job.options, job.world_size, *basis)


def _simulated_step_s(job: Job, plan: Plan) -> float:
    """The step time of the plan in the simulator, in seconds."""
    basis = planning_basis(job, measure=False)
    assert basis is not None  # an emulated run has a profile and link rates
    target, profile = basis
    costs = costs_at(job.options, profile)
    return played_plan(job.options, plan.layout, costs, target.slowest_link).step_s


def _predicted_step_s(plan: Plan) -> float | None:
    """The step time that the planner predicts, in seconds."""
    return plan.chosen.step_s if plan.chosen else None


def _emulated_step_s(plan: Plan) -> float:
    """How many seconds an emulated step should last; longer where there are many messages."""
    layout = plan.layout
    servers_beside_workers = layout.scheme == "ps" and not layout.ranks("server")
    many_messages = servers_beside_workers or layout.fc_parallel == "columns"
    return EMULATED_STEP_S * (MANY_MESSAGES if many_messages else 1.0)


def _absolute_paths(options: Options, folders: Sequence[Path]) -> Options:
    """The options with absolute paths of the data and of the user's own code."""
    named = {name: getattr(options, name) for name in OWN}
    changed: dict[str, Any] = {
        name: value and by_path.absolute(value, folders) for name, value in named.items()
    }
    absolute = by_path.absolute if options.own_data else absolute_data
    return dataclasses.replace(options, data=absolute(options.data, folders), **changed)


SYSTEM = System(
    name="stanza",
    options=Options,
    open=_open,
    check=_check,
    batch_size_option="stanza.global-batch-size",
    batch_size=_batch_size,
    with_batch_size=_with_batch_size,
    planning=Planning(
        plan_type=Plan,
        plan=lambda job, may_measure: plan_stanza_job(job, may_measure=may_measure),
        plan_measured=_plan_measured,
        resized=_resized,
        resolved=resolved,
        roles=lambda job, plan: plan.layout.roles,
    ),
    training=Training(
        summarize=_summarize, without_checkpoints=_without_checkpoints, no_prediction=_no_prediction
    ),
    emulating=Emulating(
        plan=_plan_emulated,
        predicted_step_s=_predicted_step_s,
        emulated_step_s=_emulated_step_s,
        simulated_step_s=_simulated_step_s,
    ),
    simulate=_simulate,
    measured_first=unknown_figures,
    absolute_paths=_absolute_paths,
    code_named=lambda options: tuple(filter(by_path.is_foreign, options.own_code)),
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
