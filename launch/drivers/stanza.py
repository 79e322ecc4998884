"""Stanza under the launcher: see `launch.drivers.Driver`."""

from collections.abc import Iterator, Sequence
from typing import Any

from launch.drivers import Opened
from launch.drivers import training_line as line
from launch.job import Job
from launch.planning import measure_link, measure_shared, plan_job, planning_basis, resolved
from stanza import train
from stanza.emulated import emulated_workload
from stanza.plan import Plan, costs_at, load_profile, plan
from stanza.schedule import played_plan
from stanza.summary import summarize as summary
from stanza.workload import load_data, real_workload
from systems import cluster, schema
from systems.distributed import World
from systems.emulated import Emulation
from systems.record import Step
from systems.trace import Tracer

__all__ = [
    "check",
    "line",
    "open",
    "plan_job",
    "plan_measured",
    "read_plan",
    "resolved",
    "roles",
    "simulated_step_s",
    "summarize",
]


def plan_measured(alike: Sequence[Job]) -> list[Plan]:
    """From the loopback link and a profile of the first job's model, shared by all ranks."""
    size = alike[0].world_size
    target = cluster.load("local").with_size(size).with_link(measure_link(size))
    measured = measure_shared(alike[0].stanza, size)
    return [plan(job.stanza, size, target, measured) for job in alike]


def read_plan(table: Any, where: str) -> Plan:
    """A plan from its JSON."""
    return schema.read(Plan, table, where)


def roles(job: Job, plan: Plan) -> Sequence[str]:
    """conv, fc, conv+fc, worker or server."""
    return plan.layout.roles


def check(job: Job, plan: Plan) -> None:
    """Load the images."""
    load_data(job.stanza, plan.layout, job.seed)


def open(job: Job, plan: Plan, emulation: Emulation | None) -> Opened:
    """Real layers and data, or stand-ins that wait as the profile says."""
    if emulation is None:
        workload = real_workload(job.stanza, plan.layout, job.seed)
    else:
        profile = load_profile(job.profile or job.stanza.model)
        workload = emulated_workload(job.stanza, plan.layout, profile, emulation)

    def steps(world: World, tracer: Tracer) -> Iterator[Step]:
        return train.run(
            *(job.stanza, plan.layout, world, workload),
            seed=job.seed,
            transport=job.transport,
            tracer=tracer,
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
    """See `stanza.summary`."""
    return summary(job.stanza, plan, everyone, emulation or Emulation())


def simulated_step_s(job: Job, plan: Plan) -> float:
    """The schedule's model, played."""
    basis = planning_basis(job, measure=False)
    assert basis is not None  # an emulated run has a profile and link rates
    target, profile = basis
    at = costs_at(job.stanza, profile)
    return played_plan(job.stanza, plan.layout, at, target.slowest_link).step_s
