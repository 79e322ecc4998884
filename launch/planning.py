"""Plans jobs through their systems, and reads what their plans say of every rank."""

from collections.abc import Sequence
from typing import Any, TypeVar

from launch.installed import system_of
from systems import schema
from systems.job import Job
from systems.schema import InputError

Part = TypeVar("Part")


def required(part: Part | None, job: Job, command: str) -> Part:
    """The part of a system that a command needs.

    Raises:
        InputError: the job's system does not have it.
    """
    if part is None:
        raise InputError(
            f"--system {job.system}: has no `testbed {command}`; `testbed run` runs it here"
        )
    return part


def plan_job(job: Job, *, may_measure: bool) -> Any:
    """The plan of a job that runs on this machine or under a foreign launcher.

    Args:
        may_measure: whether figures that are missing are measured here first.

    Raises:
        InputError: whatever is wrong with the job.
    """
    check_checkpoints(job)
    return system_of(job).planning.plan(job, may_measure)


def check_checkpoints(job: Job) -> None:
    """Raise an InputError if the job asks for checkpoints and its system can save none of it."""
    training = system_of(job).training
    flag: str | None = f"--system {job.system}"
    if training is not None:
        flag = training.without_checkpoints(job)
    if job.checkpoint_every and flag is not None:
        raise InputError(
            f"--checkpoint-every {job.checkpoint_every}: {flag} saves no checkpoints; leave it out"
        )


def read_plan(job: Job, table: Any, where: str) -> Any:
    """The plan of a job from its JSON in the file `where`."""
    return schema.read(system_of(job).planning.plan_type, table, where)


def roles(job: Job, plan: Any) -> Sequence[str]:
    """The role of every rank."""
    return system_of(job).planning.roles(job, plan)
