"""SparsePipe under the launcher: see `launch.drivers.Driver`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from launch.drivers import Opened
from launch.drivers import training_line as line
from launch.job import Job
from sparsepipe import train
from sparsepipe.backends import backend
from sparsepipe.workload import open_workload
from systems import schema
from systems.distributed import World
from systems.emulated import Emulation
from systems.record import Step
from systems.schema import InputError
from systems.trace import Tracer

__all__ = [
    "Plan",
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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One process does all."""

    stages: int = 1


def plan_job(job: Job, *, may_measure: bool) -> Plan:
    """Nothing is left to decide.

    Raises:
        InputError: more than one rank.
    """
    if job.world_size != 1:
        raise InputError(
            f"--world-size {job.world_size}: sparsepipe trains in one process so far; give 1"
        )
    return Plan()


def plan_measured(alike: Sequence[Job]) -> list[Plan]:
    """Nothing is measured."""
    return [plan_job(job, may_measure=False) for job in alike]


def read_plan(table: Any, where: str) -> Plan:
    """A plan from its JSON."""
    return schema.read(Plan, table, where)


def resolved(job: Job, plan: Plan) -> Job:
    """The job as it is."""
    return job


def roles(job: Job, plan: Plan) -> Sequence[str]:
    """A worker."""
    return ["worker"]


def check(job: Job, plan: Plan) -> None:
    """Find the data and the backend."""
    backend(job.sparsepipe.backend)
    open_workload(job.sparsepipe, job.seed)


def open(job: Job, plan: Plan, emulation: Emulation | None) -> Opened:
    """Network and data."""
    options = job.sparsepipe
    workload = open_workload(options, job.seed)

    def steps(world: World, tracer: Tracer) -> Iterator[Step]:
        return train.run(options, world, workload, tracer)

    return Opened(
        scheme=f"single, {options.model} x {options.width:g}, {options.backend} backend",
        roles="1 worker",
        data=workload.data.kind,
        last=options.steps,
        steps=steps,
    )


def summarize(
    job: Job, plan: Plan, everyone: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """See `sparsepipe.train.summarize`."""
    return train.summarize(job.sparsepipe, everyone[0])


def simulated_step_s(job: Job, plan: Plan) -> float:
    """Not yet.

    Raises:
        InputError: always.
    """
    raise InputError(f"--system {job.system}: is not simulated so far")
