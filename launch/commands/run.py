"""`testbed run JOB.toml [flags]`: plan, start the ranks, leave a record.

python -m launch run launch/jobs/stanza-digits.toml --stanza.fc-workers 1 --world-size 4
python -m launch run --again runs/20260101-120000-stanza-digits
python -m launch run launch/jobs/stanza-digits.toml --shape four-100m    # a cluster in this machine
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import job as jobs, planning, trust
from launch.commands.shape import prepare_shaped, run_shaped
from launch.installed import system_of
from launch.launchers import slurm
from launch.launchers.start import run_ranks, start_command
from launch.progress.progress import shown
from launch.records import again, claimed_until_refused, create_record, read_emulation, read_shaped
from systems.clusters.shape import Impairments, shape_of
from systems.flags import named_as_given
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
    shape: str | None = None
    """Run on a cluster in this machine, behind links and on shares of cores such as the cluster
    has: the name of a preset, or a TOML file. It needs root."""
    delay_s: float = 0.0
    """With --shape: seconds that every packet waits, each way, if the kernel has netem."""
    jitter_s: float = 0.0
    """With --shape: how much longer or shorter some packets wait."""
    packet_loss: float = 0.0
    """With --shape: the share of packets that are lost."""
    trust: bool = False
    """With --again: run the code that the record names by import path, such as a model's, without
    a question."""


def main(arguments: Sequence[str]) -> None:
    """Run a job, or the job of a record again."""
    wanted = _parsed(arguments)
    wanted.apply()
    job = job_alone(wanted)
    if wanted.shape is not None:
        with named_as_given({"cluster": "shape"}):
            shape = shape_of(wanted.shape, job.world_size, _impairments(wanted))
        folder = prepare_shaped(job, shape)
        code = run_shaped([folder], tensorboard=wanted.tensorboard)
        _end(code, folder, "the shaped run")
        return
    if _impairments(wanted):
        raise InputError(
            "--delay-s, --jitter-s, --packet-loss: are of a shaped cluster; add --shape FILE, or "
            "leave them out"
        )
    folder = prepare_run(job)
    if job.launcher == "slurm":
        script = slurm.write_script(job.slurm, job.name, job.world_size, folder, job.max_restarts)
        print(f"{slurm.submit(script)}\n  record: {folder}")
        return
    with shown([folder], tensorboard=wanted.tensorboard):
        code = run_ranks(job, [folder])
    _end(code, folder, job.launcher)


def _impairments(wanted: RunJob) -> Impairments:
    """Return the delay, jitter and loss that every link of a shaped cluster adds to its
    messages."""
    return Impairments(
        delay_s=wanted.delay_s, jitter_s=wanted.jitter_s, packet_loss=wanted.packet_loss
    )


def _end(code: int, folder: Path, launcher: str) -> None:
    """Exit with the code of the ranks if they failed."""
    if code:
        print(
            f"error: {launcher} ended with code {code}, what failed is said above; the steps "
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
                f"--again {wanted.again}: stands first; write: testbed run --again "
                f"{wanted.again} [flags]"
            )
        return wanted
    if len(arguments) < 2:
        raise InputError("--again: names no record; give the folder of a run")
    folder = Path(arguments[1])
    _check_measured(folder)
    run = record.read_run(folder)
    flags = arguments[2:]
    of_record = jobs.load_job(folder / "job.toml", jobs.wanted_system(flags))
    default = dataclasses.replace(jobs.with_flags(RunJob, of_record), out=None)
    wanted = jobs.parse_job_flags("run --again RECORD", flags, default)
    named = system_of(wanted).code_named
    theirs = set(named(of_record.options))
    code, where = [c for c in named(wanted.options) if c in theirs], f"--again {folder}"
    if not wanted.trust:
        trust.allow(code, where)
    trust.warn_of_changes(code, run.get("own_code_sha256", {}), where)
    return wanted


def _check_measured(folder: Path) -> None:
    """Raise an InputError if a record is of another tier: its job is of another cluster, and run
    here it would be another experiment."""
    tier = record.read_run(folder)["tier"]
    if tier != "measured":
        repeat = again(folder, tier, read_emulation(folder), read_shaped(folder))
        raise InputError(
            f"--again {folder}: its tier is {tier}, and `testbed run` measures this machine; "
            f"repeat it with: {repeat}"
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
    gpus = len(gpu_names()) if here else job.world_size
    if job.device == "cuda" and not gpus:
        raise InputError("--device cuda: torch sees no GPU here; give --device cpu")
    if job.transport == "nccl" and gpus < job.world_size:
        raise InputError(
            f"--transport nccl: {job.world_size} ranks and {gpus} GPUs here, and NCCL takes one "
            "rank a GPU; give a smaller --world-size, or leave --transport out"
        )
    if job.transport == "mpi":
        import_mpi()
    planning.check_checkpoints(job)
    with claimed_until_refused(job):
        if job.resume not in ("auto", "never"):
            find(Path(job.resume))
        plan = planning.plan_job(job, may_measure=here)
        system = system_of(job)
        system.check(job, plan)
        return create_record(system.planning.resolved(job, plan), plan)
