"""`launch run JOB.toml [flags]`: plan, start the ranks, leave a record.

python -m launch run launch/jobs/stanza-digits.toml --stanza.fc-workers 1 --world-size 4
python -m launch run --again runs/20260101-120000-stanza-digits
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import job as jobs, planning, trust
from launch.installed import system_of
from launch.launchers import slurm
from launch.launchers.start import run_ranks, start_command
from launch.progress.progress import shown
from launch.records import again, claim_record, create_record, read_emulation
from systems.gpus import gpu_names
from systems.job import Job, job_alone
from systems.mpi import import_mpi
from systems.progress.table import ProgressFlags
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
    """With --again: run the code that the record names by import path, such as a model's, without
    a question."""


def main(arguments: Sequence[str]) -> None:
    """Run a job, or the job of a record again."""
    wanted = _parsed(arguments)
    wanted.apply()
    job = job_alone(wanted)
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
        wanted = jobs.parse_job("run", arguments, RunJob)
        if wanted.again is not None:
            raise InputError(
                f"--again {wanted.again}: stands first; write: launch run --again "
                f"{wanted.again} [flags]"
            )
        return wanted
    if len(arguments) < 2:
        raise InputError("--again: names no record; give the folder of a run")
    folder = Path(arguments[1])
    _check_measured(folder)
    flags = arguments[2:]
    of_record = jobs.load_job(folder / "job.toml", jobs.wanted_system(flags))
    default = dataclasses.replace(jobs.with_flags(RunJob, of_record), out=None)
    wanted = jobs.parse_job_flags("run --again RECORD", flags, default)
    if not wanted.trust:
        named = system_of(wanted).code_named
        theirs = set(named(of_record.options))
        trust.allow([c for c in named(wanted.options) if c in theirs], f"--again {folder}")
    return wanted


def _check_measured(folder: Path) -> None:
    """Raise an InputError if a record is of another tier: its job is of another cluster, and run
    here it would be another experiment."""
    tier = record.read_json(folder / "run.json")["tier"]
    if tier != "measured":
        raise InputError(
            f"--again {folder}: its tier is {tier}, and `launch run` measures this machine; repeat "
            f"it with: {again(folder, tier, read_emulation(folder))}"
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
    planning.check_checkpoints(job)
    if job.out:
        claim_record(job, Path(job.out))  # before anything is measured
    if job.resume not in ("auto", "never"):
        find(Path(job.resume))
    plan = planning.plan_job(job, may_measure=here)
    system = system_of(job)
    system.check(job, plan)
    return create_record(system.planning.resolved(job, plan), plan)
