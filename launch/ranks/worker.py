"""One rank of a run: `torchrun ... -m launch worker JOB.toml [flags]`.

`testbed run` and `testbed reproduce` prepare record folders and start
`worker --records FOLDER ...`, which runs several jobs one after the other in one world. Either way
`launch.ranks.execute` runs the jobs. The flags are those of a job alone: `--quiet` and
`--tensorboard` belong to the commands that start the ranks and watch them. Set the variable
TESTBED_QUIET to quiet ranks that others start.
"""

import dataclasses
import faulthandler
import os
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch import job as jobs, planning
from launch.installed import system_of
from launch.ranks.execute import disk_errors_explained, execute
from launch.ranks.shaped import CALIBRATION_S, checked_pairs
from launch.records import (
    create_record,
    earlier_attempt,
    read_emulation,
    read_job_and_plan,
    read_shaped,
)
from systems import dynamo
from systems.environment import Environment, environment
from systems.job import Job
from systems.network.distributed import World, start, stop
from systems.network.links import Calibration, calibrate, calibrate_pairs
from systems.network.pairs import PairCalibration
from systems.network.transport import TransportError
from systems.processes import failures
from systems.processes.lifetime import die_with_parent, name_process
from systems.schema import InputError

GRACE_S = 1.0
"""A rank that lost its peer waits so many seconds, for the launcher to see first who died first."""


def main(arguments: Sequence[str]) -> None:
    """Run this rank's part of one or several jobs."""
    faulthandler.enable()
    if "LOCAL_RANK" in os.environ:
        die_with_parent(signal.SIGKILL)  # torchrun's agent
    work(arguments, environment())


def work(arguments: Sequence[str], place: Environment) -> None:
    """Run jobs as the rank that `place` says. If it fails, it says why, and leaves the reason for
    the record (systems.processes.failures).

    Raises:
        SystemExit: the rank failed.
    """
    name_process(f"rank {place.rank}")
    dynamo.postpone()
    with failure_explained(place.rank):
        _run_jobs(arguments, place)


@contextmanager
def failure_explained(rank: int) -> Iterator[None]:
    """Let a rank that fails say why, and leave the reason for the record.

    Raises:
        SystemExit: the rank failed.
    """
    try:
        yield
    except Exception as error:
        raise SystemExit(_explain_failure(error, rank)) from None


def _explain_failure(error: Exception, rank: int) -> int:
    """Say why this rank fails, and keep the reason; returns the exit code. Rank 0 speaks for all
    ranks where the input is at fault."""
    if isinstance(error, InputError):
        if rank == 0:
            failures.tell(rank, str(error))
        elif failures.somebody_tells():  # most probably what rank 0 says, too
            failures.keep(rank, f"rank {rank}: {error}")
        else:
            time.sleep(GRACE_S)
            failures.tell(rank, f"rank {rank}: {error}")
        return 2
    if isinstance(error, TransportError):
        failures.say(str(error))  # at once: the launcher may end this rank next
        time.sleep(GRACE_S)
        failures.keep(rank, str(error))
    elif isinstance(error, TimeoutError):  # someone did not come
        failures.tell(rank, f"rank {rank}: {error}")
    else:
        reason = f"rank {rank}: {type(error).__name__}: {error}"
        if isinstance(error, RuntimeError):  # perhaps a collective that has lost a peer
            time.sleep(GRACE_S)
        failures.tell(rank, f"{reason}\n{''.join(traceback.format_exception(error))}")
    return 1


def _run_jobs(arguments: Sequence[str], place: Environment) -> None:
    """Join the world of ranks, and run all jobs in it: those of the records that `--records`
    names, or the one that the command line means."""
    if arguments and arguments[0] == "--records":
        folders = [Path(name) for name in arguments[1:]]
        if not folders:
            raise InputError("--records: names no record; give the folders of runs")
        failures.keep_in(folders[0])
        planned = [read_job_and_plan(folder) for folder in folders]
    else:
        folders = []
        planned = [_planned(jobs.parse_job("worker", arguments, Job), place)]
    job, plan = planned[0]
    world = start(
        place,
        planning.roles(job, plan),
        timeout_s=job.timeout_s,
        device=job.device,
        backend=job.backend,
    )
    if not folders:
        folders = [_agree_on_folder(world, job, plan, place)]
        failures.keep_in(folders[0])
    calibration = _calibrated(place, folders[0], job, plan)
    for (job, plan), folder in zip(planned, folders, strict=True):
        failures.keep_in(folder)
        with disk_errors_explained(folder, world):
            execute(job, plan, world.with_roles(planning.roles(job, plan)), folder, calibration)
    stop(world)


def _planned(wanted: Job, place: Environment) -> tuple[Job, Any]:
    """The job in the world that a foreign launcher has made, and its plan. All ranks plan alike,
    for nothing is measured."""
    launcher: Any = wanted.launcher if place.launcher == "none" else place.launcher
    job = dataclasses.replace(wanted, world_size=place.world_size, launcher=launcher)
    of_system = system_of(job).planning
    if place.elastic and place.world_size != wanted.world_size:  # a lost node is no mistake
        job = of_system.resized(job, place.world_size)
    plan = planning.plan_job(job, may_measure=False)
    return of_system.resolved(job, plan), plan


def _agree_on_folder(world: World, job: Job, plan: Any, place: Environment) -> Path:
    """The folder of the record. Rank 0 makes it, or takes that of an earlier attempt, and tells
    the other ranks."""
    if world.rank == 0:
        folder = earlier_attempt(job, plan, place) or create_record(job, plan, run_id=place.run_id)
        world.store.set("record", str(folder))
    return Path(world.store.get("record").decode())


def _calibrated(
    place: Environment, folder: Path, job: Job, plan: Any
) -> Calibration | PairCalibration | None:
    """What emulated or shaped links really give; None on this machine's own. Where links have
    several rates, every two ranks are measured at the slower of theirs.

    Raises:
        InputError: a link is far from its rate, so that nothing measured over it would be true.
    """
    shaped, emulation = read_shaped(folder), read_emulation(folder)
    if shaped is not None:
        return checked_pairs(shaped.shape)
    if emulation is None:
        return None
    emulating = system_of(job).emulating
    assert emulating is not None  # the record is of an emulated run
    rates = emulating.link_rates(job, plan, emulation)
    calibration: Calibration | PairCalibration
    if len(set(rates)) == 1:
        calibration = calibrate(rates, round(min(rates) / 8 * CALIBRATION_S))
        words = f"{min(rates) / 1e9:.3g}"
    else:
        calibration = calibrate_pairs(rates, CALIBRATION_S)
        words = f"{min(rates) / 1e9:.3g} to {max(rates) / 1e9:.3g}"
    if place.rank == 0:
        print(f"links at {words} Gb/s: {calibration}", flush=True)
    fault = calibration.fault()
    if fault is not None:
        raise InputError(f"{fault}: nothing is reported; give a larger --scale or --dilate")
    return calibration
