"""Starts the ranks of a run on this machine, and makes sure that none of them outlives it.

Every launcher starts the same `testbed worker`, which reads its rank from the environment variables
that the launcher sets.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.records import name_of, unfinished
from systems.deepspeed import check_installed
from systems.disk import writing
from systems.environment import free_port, threads_per_rank
from systems.gpus import on_gpus
from systems.job import Job
from systems.processes import failures
from systems.processes.forked import heeded
from systems.processes.lifetime import die_with_parent
from systems.processes.supervise import TOLD, how_it_ended, told
from systems.schema import InputError

FAILED = "failed-rank"
"""The file in a record that names the rank that failed first; it is there while ranks run."""


def start_command(job: Job, worker: Sequence[str]) -> list[str]:
    """The command that starts `job.world_size` ranks of `python -m launch worker ...`.

    Raises:
        InputError: the launcher of the job is not installed.
    """
    size = job.world_size
    if job.launcher == "local":
        return [sys.executable, "-m", "launch.launchers.local", str(size), *worker]
    if job.launcher == "mpirun":
        return _mpirun(size, [sys.executable, "-m", "launch", *worker])
    if job.launcher == "deepspeed":
        return _deepspeed(size, ["launch.launchers.watched", *worker])
    torchrun = [sys.executable, "-m", "launch.launchers.torchrun", "--standalone"]
    ranks = [f"--nproc-per-node={size}", f"--max-restarts={job.max_restarts}"]
    return [*torchrun, *ranks, "-m", "launch", *worker]


def _mpirun(size: int, command: Sequence[str]) -> list[str]:
    """The command with which mpirun starts another one once for every rank."""
    mpirun = find_mpirun()
    if mpirun is None:
        raise InputError(
            "--launcher mpirun: mpirun is not on PATH nor beside python; install it with: "
            "pip install 'systems-testbed[mpi]'"
        )
    root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
    return [mpirun, *root, "--oversubscribe", "-np", str(size), *command]


def _deepspeed(size: int, module: Sequence[str]) -> list[str]:
    """The command that `deepspeed --num_gpus SIZE --module ...` runs on one machine. The program
    `deepspeed` itself is left out: it asks for as many GPUs first, and when it is killed its ranks
    go on."""
    check_installed("--launcher deepspeed")
    ranks = json.dumps({"localhost": list(range(size))})
    return [
        sys.executable,
        "-m",
        "deepspeed.launcher.launch",
        "--log_level",
        "error",
        f"--world_info={base64.urlsafe_b64encode(ranks.encode()).decode()}",
        f"--master_port={free_port()}",
        "--no_local_rank",
        "--module",
        *module,
    ]


def find_mpirun() -> str | None:
    """The path of mpirun: on PATH, or where pip installed it beside this Python."""
    beside = Path(sys.executable).parent / "mpirun"
    return shutil.which("mpirun") or (str(beside) if beside.is_file() else None)


def run_ranks(job: Job, folders: Sequence[Path], *, quiet: bool = False) -> int:
    """Start the ranks that do the jobs of records, one job after the other in one world, which has
    the size of the first job. Wait for them, and return the exit code of the launcher."""
    command = start_command(job, ["worker", "--records", *map(str, folders)])
    return run_command(command, _variables(job), folders, quiet=quiet)


def run_command(
    command: Sequence[str],
    variables: Mapping[str, str],
    folders: Sequence[Path],
    *,
    quiet: bool = False,
) -> int:
    """Run a command that starts ranks, and wait for it; returns its exit code. If a rank fails, say
    which one failed first, and why.

    A signal to this process ends the ranks and then this process. If this process dies, so do they.

    Args:
        variables: environment variables for the command, beside those of this process.
        folders: the records that the ranks write.
        quiet: show only what goes to stderr.

    Raises:
        SystemExit: a signal came. The exit code is that of a shell, 130 for Ctrl-C.
    """
    file = folders[0].absolute() / FAILED
    with writing(file):
        file.write_text("")
    earlier = {folder: len(failures.read(folder)) for folder in folders}
    try:
        code = wait_for_end(command, {**variables, TOLD: str(file)}, quiet=quiet)
        failed = told(file)
    finally:
        file.unlink(missing_ok=True)
    failed_ranks = [line for folder in folders for line in failures.read(folder)[earlier[folder] :]]
    if failed is not None:
        _say_who_failed(*failed, failed_ranks, folders)
    elif code and failed_ranks:  # of mpirun's ranks nobody tells which was the first
        failures.say(
            f"{name_of(failed_ranks[0]['rank'], folders)} failed: {failed_ranks[0]['reason']}"
        )
    return code


def _say_who_failed(
    rank: int, code: int, failed_ranks: Sequence[Mapping[str, Any]], folders: Sequence[Path]
) -> None:
    """Name the rank that failed first, and its reason. A rank that was killed could not write the
    reason into the record, so it is written here."""
    text = f"{name_of(rank, folders)} {how_it_ended(code)}"
    reasons = [line["reason"] for line in failed_ranks if line["rank"] == rank]
    if code == -signal.SIGKILL or not reasons:
        failures.write(unfinished(folders), rank, text)
    else:
        text += f": {reasons[-1]}"
    failures.say(text)


def wait_for_end(
    command: Sequence[str], variables: Mapping[str, str], *, quiet: bool = False
) -> int:
    """Run a command to its end, and pass signals on to it; returns its exit code. If this process
    dies, it ends as well. See `run_command` for the arguments and what is raised."""
    received: list[int] = []
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL if quiet else None,
        env={"TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ, **variables},
        start_new_session=True,  # a Ctrl-C reaches the ranks through us, once
        preexec_fn=_die_with_parent,
    )

    def forward(signal_number: int, frame: object) -> None:
        received.append(signal_number)
        process.terminate()

    previous = {s: signal.signal(s, forward) for s in heeded()}
    try:
        code = process.wait()
    finally:
        for signal_number, handler in previous.items():
            signal.signal(signal_number, handler)
        process.kill()
    if received:
        name = signal.Signals(received[0]).name
        print(f"error: stopped by {name}; what is done stays", file=sys.stderr)
        raise SystemExit(128 + received[0])
    return code


def _variables(job: Job) -> dict[str, str]:
    """The environment variables of the ranks, among which the cores are divided. What the user has
    set stays."""
    defaults = {
        "OMP_NUM_THREADS": str(threads_per_rank(job.world_size)),
        # Open MPI would listen for TCP on every interface; ranks on one machine need none.
        "OMPI_MCA_btl": "^tcp",
        # Do not let Open MPI warn that its session folder lies on a shared file system.
        "PRTE_MCA_prte_silence_shared_fs": "1",
    }
    if job.launcher == "deepspeed" and not on_gpus(job.device, job.world_size):
        defaults["DS_ACCELERATOR"] = "cpu"
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def _die_with_parent() -> None:
    """Let the kernel end the launcher if this process dies."""
    die_with_parent(signal.SIGTERM)
