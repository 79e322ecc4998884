"""`launch run JOB.toml [flags]`: plan, start the ranks, leave a record.

python -m launch run launch/jobs/stanza-digits.toml --stanza.fc-workers 1 --world-size 4
python -m launch run --again runs/20260101-120000-stanza-digits
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import drivers, job as jobs
from launch.drivers import driver
from launch.job import Job
from launch.launchers import slurm
from launch.launchers.start import run_ranks, start_command
from launch.progress.progress import ProgressFlags, shown
from launch.records import claim_record, create_record
from systems.gpus import gpu_names
from systems.mpi import import_mpi
from systems.runs import record
from systems.runs.manifest import find
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class RunJob(Job, ProgressFlags):
    """Run one system on this machine."""

    again: str | None = None
    """The folder of a record whose job is run again, in a new record. It stands first, instead of
    a job file; other flags change the job."""
    trust: bool = False
    """Run the code of a record's job that is not the testbed's: look at it before."""


def main(arguments: Sequence[str]) -> None:
    """Run a job, or the job of a record again."""
    wanted = _parsed(arguments)
    wanted.apply()
    job = jobs.without_flags_of_command(wanted)
    folder = prepare_run(job)
    if job.launcher == "slurm":
        script = slurm.write_script(job.slurm, job.name, job.world_size, folder, job.max_restarts)
        print(f"{slurm.submit(script)}\n  record: {folder}")
        return
    with shown([folder], tensorboard=wanted.tensorboard):
        code = run_ranks(job, [folder])
    if code:
        print(
            f"error: {job.launcher} ended with code {code}, what failed is said above; the steps "
            f"so far are in {folder}/steps",
            file=sys.stderr,
        )
        raise SystemExit(code if code > 0 else 128 - code)


def _parsed(arguments: Sequence[str]) -> RunJob:
    """The job that the command line means: of a record after --again, else of a job file."""
    if arguments[:1] != ["--again"]:
        wanted = jobs.parse_job("run", arguments, RunJob())
        if wanted.again is not None:
            raise InputError(
                f"--again {wanted.again}: stands first; write: launch run --again "
                f"{wanted.again} [flags]"
            )
        return wanted
    if len(arguments) < 2:
        raise InputError("--again: names no record; give the folder of a run")
    folder = Path(arguments[1])
    record.read_json(folder / "run.json")
    of_record = jobs.job_fields(jobs.load_job(folder / "job.toml"))
    default = RunJob(**of_record | {"out": None})
    wanted = jobs.parse_flags(RunJob, arguments[2:], "launch run --again RECORD", default)
    _check_trusted(wanted, default, folder)
    return jobs.with_absolute_paths(wanted, Path())


def _check_trusted(wanted: RunJob, of_record: RunJob, folder: Path) -> None:
    """Refuse to import code that only a record names: it may come from elsewhere.

    Raises:
        InputError: the user has not said that it is to be trusted.
    """
    foreign = set(drivers.own_code(wanted)) & set(drivers.own_code(of_record))
    if foreign and not wanted.trust:
        raise InputError(
            f"--again {folder}: its job runs code of its own, {', '.join(sorted(foreign))}; look "
            "at it, and add --trust"
        )


def prepare_run(job: Job) -> Path:
    """Check everything that can be checked before ranks start, plan, and make the record.

    Raises:
        InputError: whatever is wrong with the job.
    """
    here = job.launcher != "slurm"
    if here:
        start_command(job, [])  # raises if the launcher is missing
    else:
        slurm.ranks_per_node(job.slurm, job.world_size)
    if here and job.device == "cuda" and len(gpu_names()) < job.world_size:
        raise InputError(
            f"--device cuda: {job.world_size} ranks and {len(gpu_names())} GPUs here; "
            "give a smaller --world-size or --device cpu"
        )
    if job.transport == "mpi":
        import_mpi()
    drivers.check_checkpoints(job)
    if job.out:
        claim_record(job, Path(job.out))  # before anything is measured
    if job.resume not in ("auto", "never"):
        find(Path(job.resume))
    plan = drivers.plan_job(job, may_measure=here)
    system = driver(job)
    system.check(job, plan)
    return create_record(system.planning.resolved(job, plan), plan)
