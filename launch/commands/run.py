"""`launch run JOB.toml [flags]`: plan, start the ranks, leave a record.

python -m launch run launch/jobs/stanza-digits.toml --stanza.fc-workers 1 --world-size 4
python -m launch run --again runs/20260101-120000-stanza-digits
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import job as jobs
from launch.drivers import driver
from launch.job import Job
from launch.launchers import slurm
from launch.launchers.start import run_ranks, start_command
from launch.progress.progress import ProgressFlags, shown
from launch.records import claim, create_record
from systems.gpus import gpu_names
from systems.mpi import import_mpi
from systems.runs import record
from systems.runs.manifest import find
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class RunJob(Job, ProgressFlags):
    """A run of one system on this machine."""


def main(arguments: Sequence[str]) -> None:
    """Run a job, or a record's job again."""
    given = (
        _again(arguments[1:])
        if arguments[:1] == ["--again"]
        else jobs.parse("run", arguments, RunJob())
    )
    given.apply()
    job = jobs.without_flags_of_command(given)
    folder = prepare(job)
    if job.launcher == "slurm":
        script = slurm.write_script(job.slurm, job.name, job.world_size, folder, job.max_restarts)
        print(f"{slurm.submit(script)}\n  record: {folder}")
        return
    with shown([folder], tensorboard=given.tensorboard):
        code = run_ranks(job, [folder])
    if code:
        print(
            f"error: {job.launcher} ended with code {code}, what failed is said above; the steps "
            f"so far are in {folder}/steps",
            file=sys.stderr,
        )
        raise SystemExit(code if code > 0 else 128 - code)


def prepare(given: Job) -> Path:
    """Check everything that can be checked before ranks start, plan, and make the record.

    Raises:
        InputError: whatever is wrong with the job.
    """
    here = given.launcher != "slurm"
    if here:
        start_command(given, [])  # is the launcher there?
    else:
        slurm.ranks_per_node(given.slurm, given.world_size)
    if here and given.device == "cuda" and len(gpu_names()) < given.world_size:
        raise InputError(
            f"--device cuda: {given.world_size} ranks and {len(gpu_names())} GPUs here; "
            "give a smaller --world-size or --device cpu"
        )
    if given.transport == "mpi":
        import_mpi()
    if given.out:
        claim(given, Path(given.out))  # before anything is measured
    if given.resume not in ("auto", "never"):
        find(Path(given.resume))
    system = driver(given)
    plan = system.plan_job(given, may_measure=here)
    system.check(given, plan)
    return create_record(system.resolved(given, plan), plan)


def _again(arguments: Sequence[str]) -> RunJob:
    if not arguments:
        raise InputError("--again: names no record; give the folder of a run")
    folder = Path(arguments[0])
    record.read_json(folder / "run.json")
    again = jobs.load(folder / "job.toml")
    fields = {f.name: getattr(again, f.name) for f in dataclasses.fields(Job)}
    job = RunJob(**fields | {"out": None})
    return jobs.parse_flags(RunJob, arguments[1:], "launch run --again RECORD", job)
