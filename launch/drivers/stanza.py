"""Stanza under the launcher: see `launch.drivers.Driver`."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from launch.drivers import Opened, Simulated, training_line as line
from launch.drivers.stanza_planning import (
    HERE,
    link_rates_of,
    measure_link,
    measure_shared,
    plan_job,
    planning_basis,
    resolved,
)
from launch.job import Job
from stanza.layout import layout
from stanza.options import ZERO_STAGES
from stanza.planner.plan import (
    Plan,
    costs_at,
    load_profile,
    plan,
)
from stanza.planner.simulated import played_plan
from systems import schema
from systems.clusters import cluster
from systems.deepspeed import check_installed
from systems.profiles.emulation import Emulation
from systems.runs.record import Step
from systems.runs.trace import Tracer
from systems.schema import InputError

if TYPE_CHECKING:
    from systems.network.distributed import World
    from systems.runs.checkpoint import Checkpoints

__all__ = [
    "batch_size",
    "check",
    "emulated_step_s",
    "for_world",
    "line",
    "link_rates",
    "open",
    "plan_emulated",
    "plan_job",
    "plan_measured",
    "predicted_step_s",
    "read_plan",
    "resolved",
    "roles",
    "samples",
    "simulate",
    "simulated_step_s",
    "summarize",
    "with_batch_size",
]

STEP_S = 0.7
"""How long an emulated step should last: the ranks' own Python is then small beside it."""
MANY_MESSAGES = 2.0
"""Steps last this many times longer where every rank sends to every other: servers beside all
workers, and columns. Their messages take the host's cores most time."""


def for_world(job: Job, world_size: int) -> Job:
    """As many FC workers or servers as the job says, or as can be."""
    options = job.stanza
    most = {"fc_workers": world_size // 2, "ps_servers": max(1, world_size - 1)}
    if options.fc_placement == "colocated":
        most["fc_workers"] = world_size
    given = {name: getattr(options, name) for name in most}
    fitting = {k: min(v, most[k]) for k, v in given.items() if v != "auto"}
    fitted = dataclasses.replace(options, **fitting)
    return dataclasses.replace(job, world_size=world_size, stanza=fitted)


def plan_measured(alike: Sequence[Job]) -> list[Plan]:
    """From the loopback link and a profile of the first job's model, shared by all ranks."""
    size = alike[0].world_size
    target = cluster.load(HERE).with_size(size).with_link(measure_link(size))
    measured = measure_shared(alike[0].stanza, size)
    target = target.with_kind(measured.device)
    return [plan(job.stanza, size, target, measured) for job in alike]


def read_plan(table: Any, where: str) -> Plan:
    """A plan from its JSON."""
    return schema.read(Plan, table, where)


def roles(job: Job, plan: Plan) -> Sequence[str]:
    """conv, fc, conv+fc, worker or server."""
    return plan.layout.roles


def with_batch_size(job: Job, samples: int) -> Job:
    """The same for every scheme, over all ranks with data."""
    options = dataclasses.replace(job.stanza, global_batch_size=samples, local_batch_size=None)
    return dataclasses.replace(job, stanza=options)


def batch_size(job: Job) -> int | None:
    """The samples of a step over all ranks; None where the planner chooses how many have data."""
    options = job.stanza
    if options.global_batch_size is not None:
        return options.global_batch_size
    if options.scheme == "stanza" and "auto" in (options.fc_workers, options.fc_placement):
        return None
    given = 0 if options.fc_workers == "auto" else options.fc_workers
    with_data = layout(options, job.world_size, given, 1).data_ranks
    return options.samples_per_step(len(with_data))


def check(job: Job, plan: Plan) -> None:
    """Load the images; is DeepSpeed there, if it is needed?"""
    if job.stanza.scheme in ZERO_STAGES:
        check_installed(f"--stanza.scheme {job.stanza.scheme}")
    from stanza.train.data import load_data

    load_data(job.stanza, plan.layout, job.seed)


def open(job: Job, plan: Plan, emulation: Emulation | None) -> Opened:
    """Real layers and data, or stand-ins that wait as the profile says."""
    from stanza.train import loop as train
    from stanza.train.emulated import emulated_workload
    from stanza.train.workload import real_workload

    if emulation is None:
        workload = real_workload(job.stanza, plan.layout, job.seed)
    else:
        profile = load_profile(job.profile or job.stanza.model)
        workload = emulated_workload(job.stanza, plan.layout, profile, emulation)

    def steps(world: "World", tracer: Tracer, checkpoints: "Checkpoints") -> Iterator[Step]:
        return train.run(
            *(job.stanza, plan.layout, world, workload),
            seed=job.seed,
            transport=job.transport,
            tracer=tracer,
            checkpoints=checkpoints,
        )

    narrow = job.stanza.cut_dtype
    return Opened(
        scheme=job.stanza.scheme_name + ("" if narrow == "float32" else f", cut in {narrow}"),
        roles=plan.layout.describe(),
        data=workload.data.kind,
        last=job.stanza.steps,
        steps=steps,
    )


def summarize(
    job: Job, plan: Plan, everyone: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """See `stanza.train.summary`."""
    from stanza.train.summary import summarize as summary

    return summary(job.stanza, plan, everyone, emulation or Emulation())


def samples(metrics: Sequence[Mapping[str, float]]) -> float | None:
    """Every rank with data has its own."""
    return sum(of_rank.get("samples", 0) for of_rank in metrics) or None


def simulated_step_s(job: Job, plan: Plan) -> float:
    """The schedule's model, played."""
    basis = planning_basis(job, measure=False)
    assert basis is not None  # an emulated run has a profile and link rates
    target, profile = basis
    at = costs_at(job.stanza, profile)
    return played_plan(job.stanza, plan.layout, at, target.slowest_link).step_s


def simulate(job: Job) -> Simulated:
    """Measures what is not known of cluster and model."""
    basis = planning_basis(job, measure=True)
    assert basis is not None  # measured if need be
    target, profile = basis
    found = plan(job.stanza, job.world_size, target, profile)
    job = resolved(job, found)
    at = costs_at(job.stanza, profile)
    played = played_plan(job.stanza, found.layout, at, target.slowest_link)
    return Simulated(
        job=job,
        plan=found,
        spans=played.timeline.spans(),
        result={
            "scheme": job.stanza.scheme_name,
            "step_s": played.step_s,
            "samples_per_step": played.samples,
            "samples_per_s": played.samples_per_s,
            "predicted_step_s": predicted_step_s(found),
            "cluster": dataclasses.asdict(target),
        },
        what=f"{job.stanza.scheme_name} | world size {job.world_size}: {found.layout.describe()} "
        f"| {job.stanza.model}, profile {profile.device}, cluster {target.name}",
    )


def plan_emulated(job: Job) -> Plan:
    """From the model's profile.

    Raises:
        InputError: there is none.
    """
    if job.stanza.scheme in ZERO_STAGES:
        raise InputError(f"--stanza.scheme {job.stanza.scheme}: is not emulated; use launch run")
    link_rates_of(job.cluster, job.world_size, Emulation())  # are they known?
    basis = planning_basis(job, measure=False)
    if basis is None:
        raise InputError(
            f"--stanza.model {job.stanza.model}: no profile says how long its layers wait; make "
            "one with `launch profile stanza` and give it with --profile"
        )
    return plan(job.stanza, job.world_size, *basis)


def link_rates(job: Job, plan: Plan, emulation: Emulation) -> tuple[float, ...]:
    """One rank a node."""
    return link_rates_of(job.cluster, job.world_size, emulation)


def predicted_step_s(plan: Plan) -> float | None:
    """Of what the planner chose."""
    return plan.chosen.step_s if plan.chosen else None


def emulated_step_s(plan: Plan) -> float:
    """Longer where there are many messages."""
    layout = plan.layout
    beside = layout.scheme == "ps" and not layout.ranks("server")
    many = beside or layout.fc_parallel == "columns"
    return STEP_S * (MANY_MESSAGES if many else 1.0)
