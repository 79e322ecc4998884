"""Shaped runs: real training on a cluster in this machine, as `testbed run --shape` starts them.

    shape = shape_of("four-100m", 4)
    measured = measure_shaped(job, shape)                 # a few seconds; holds for alike jobs
    code = run_shaped([prepare_shaped(job, shape, measured)])

Every rank is a process in a network namespace of its own, behind a link held to the cluster's
rate, and held to a share of a core where the cluster says so. First the links, the speeds of the
ranks and the layers of the job are measured with all ranks at work; the plan and its prediction are
made from that. This needs Linux, root and iproute2.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from launch import job as jobs, planning
from launch.commands.emulate import RANKS, rank_variables
from launch.installed import system_of
from launch.launchers.start import run_command, wait_for_end
from launch.progress.progress import shown
from launch.ranks import files
from launch.records import claimed_until_refused, create_record
from systems import schema
from systems.clusters.shape import Shape, as_measured
from systems.job import Job
from systems.network.namespaces import check_available, check_impairments
from systems.processes import core_shares, failures
from systems.processes.supervise import TOLD
from systems.runs import record
from systems.runs.manifest import find
from systems.runs.shaped import Measured, Shaped
from systems.schema import InputError


def prepare_shaped(job: Job, shape: Shape, measured: Measured | None = None) -> Path:
    """Check, measure, plan, and make the record of a shaped run; returns its folder.

    Args:
        measured: what `measure_shaped` has found for a job that is alike; None measures first.

    Raises:
        InputError: whatever is wrong with the job, or this machine can shape nothing.
    """
    job = _checked(job, shape)
    with claimed_until_refused(job):
        return _prepared(job, shape, measured)


def _prepared(job: Job, shape: Shape, measured: Measured | None) -> Path:
    """Measure, plan, and make the record of a job that was checked; returns its folder."""
    if job.resume not in ("auto", "never"):
        find(Path(job.resume))
    if measured is None:
        measured = measure_shaped(job, shape)
    system, simulated_step_s = system_of(job), None
    if system.shaping is None:
        plan = system.planning.plan(job, False)
    else:
        calibration = measured.calibration
        target = as_measured(shape, calibration.ratio, calibration.latency_s, measured.host)
        plan = system.shaping.plan(job, target, measured.profiles)
        simulated_step_s = system.shaping.simulated_step_s(job, plan, target, measured.profiles)
    system.check(job, plan)
    shaped = Shaped(
        shape=shape, held=held_in_words(shape), measured=measured, simulated_step_s=simulated_step_s
    )
    return create_record(system.planning.resolved(job, plan), plan, "shaped", shaped=shaped)


def run_shaped(folders: Sequence[Path], *, tensorboard: bool = False, quiet: bool = False) -> int:
    """Run the jobs of records one after the other on one shaped cluster; returns an exit code.

    Args:
        quiet: show only what goes to stderr, and the live table.
    """
    command = [*RANKS, "--records", *map(str, folders)]
    try:
        with shown(folders, tensorboard=tensorboard):
            return run_command(command, rank_variables(), folders, quiet=quiet)
    finally:
        core_shares.clean(core_shares.PATIENCE_S)  # of a process that was killed


def measure_shaped(job: Job, shape: Shape) -> Measured:
    """Measure a shaped cluster with all ranks at work: its links, the speeds of its ranks, and the
    layers of a job's model on them. Before that, print what is measured.

    Raises:
        InputError: nothing can be shaped here, or a rank failed.
        SystemExit: a signal came.
    """
    job = _checked(job, shape)
    print(f"measuring {shape}, with all ranks at work ({held_in_words(shape)})", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="systems-testbed-") as name:
        folder = Path(name)
        jobs.save_job(dataclasses.replace(job, out=None), folder / files.JOB)
        record.write_json(folder / files.SHAPE, schema.dump(shape))
        try:
            variables = {TOLD: str(folder / files.FAILED)}
            code = wait_for_end([*RANKS, "--measure", name], {**rank_variables(), **variables})
        finally:
            core_shares.clean(core_shares.PATIENCE_S)
        if code:
            reason = f"the ranks ended with code {code}, see above"
            raise InputError(failures.first(folder) or f"{shape} could not be measured: {reason}")
        return schema.read(Measured, record.read_json(folder / files.MEASURED), name)


def profiled_alike(job: Job, shape: Shape) -> Hashable:
    """Return a key of what the measurement for a job depends on. Jobs with equal keys share one."""
    shaping = system_of(job).shaping
    return shape, job.system, None if shaping is None else shaping.profiled(job)


def held_in_words(shape: Shape) -> str:
    """Say in words how the ranks of a shape are held to their shares of a core here."""
    if all(share is None for share in shape.core_shares):
        return "cores shared freely"
    reason = core_shares.unavailable()
    if reason is not None:
        return f"links only: {reason}"
    here = core_shares.hierarchy()
    assert here is not None  # it is available
    return f"held by cgroup v{here.version}, periods of {core_shares.PERIOD_US / 1e3:g} ms"


def _checked(job: Job, shape: Shape) -> Job:
    """The job as it runs on a shaped cluster.

    Raises:
        InputError: nothing can be shaped here, or the job asks for what a shaped run does not have.
    """
    check_available()
    check_impairments(shape.impairments)
    wrong: dict[str, Any] = {
        "launcher": (job.launcher, "torchrun", "ranks of a shaped run are started here"),
        "transport": (job.transport, "torch", "ranks of a shaped run talk over gloo"),
        "max-restarts": (job.max_restarts, 0, "ranks of a shaped run are not started again"),
        "profile": (job.profile, None, "a shaped run is planned with what is measured of it"),
    }
    for flag, (value, allowed, why) in wrong.items():
        if value != allowed:
            raise InputError(f"--{flag} {value}: {why}; leave it out")
    if job.device == "cuda":
        raise InputError("--device cuda: a share of a core holds no GPU; leave it out")
    planning.check_checkpoints(job)
    return dataclasses.replace(job, device="cpu", cluster=Job.cluster)
