"""`testbed emulate JOB.toml [flags]`: the job on a cluster emulated by this machine.

    python -m launch emulate launch/jobs/stanza-vgg16-random.toml --cluster ec2-p3-10g --dilate 2

It takes the job files and flags of `testbed run`, and the same program runs: one rank for each node
(with sparsepipe, for each device), over links that are shaped to the rate of the cluster. Waits as
long as the model's profile says replace the computation. This needs Linux, root and iproute2.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import job as jobs
from launch.installed import system_of
from launch.launchers.start import run_command
from launch.planning import required
from launch.progress.progress import shown
from launch.records import create_record
from systems.job import Job, job_alone
from systems.network.emulate import LAUNCHER
from systems.network.namespaces import check_available
from systems.profiles.emulation import Emulation
from systems.progress.table import ProgressFlags
from systems.runs import record
from systems.schema import InputError
from systems.system import Emulating

RANKS = [sys.executable, "-m", "launch", "ranks"]
"""The command that forks ranks into a network of this machine's own."""
LINK_BITS_PER_S = 0.25e9
"""The rate of an emulated link if the user gives no scale. With ten nodes at this rate, two cores
still have time for the ranks themselves."""
DILATIONS = (0.15, 16.0)
"""The least and the greatest dilation that is chosen if the user gives none."""


@dataclass(frozen=True, kw_only=True)
class EmulatedJob(Job, ProgressFlags):
    """Run one system on an emulated cluster."""

    scale: float | None = None
    """The factor that divides message sizes and link rates. None chooses it so that the fastest
    link has 0.25 Gb/s."""
    dilate: float | None = None
    """The factor that stretches all durations; results are reported as if it were 1. None chooses
    it so that a step lasts about a second."""

    def __post_init__(self) -> None:
        super().__post_init__()
        factors = {"scale": self.scale, "dilate": self.dilate}
        Emulation(**{name: value for name, value in factors.items() if value is not None})


def main(arguments: Sequence[str]) -> None:
    """Plan, emulate, leave a record."""
    check_available()
    wanted = jobs.parse_job("emulate", arguments, EmulatedJob)
    wanted.apply()
    folder = prepare_emulated(wanted)
    code = run_emulated([folder], tensorboard=wanted.tensorboard)
    if code:
        print(f"error: the emulated run ended with code {code}, see above", file=sys.stderr)
        raise SystemExit(code if code > 0 else 128 - code)


def run_emulated(folders: Sequence[Path], *, tensorboard: bool = False, quiet: bool = False) -> int:
    """Run the jobs of records one after the other on one emulated cluster; returns an exit code.

    Args:
        quiet: show only what goes to stderr, and the live table.
    """
    command = [*RANKS, "--records", *map(str, folders)]
    with shown(folders, tensorboard=tensorboard):
        return run_command(command, rank_variables(), folders, quiet=quiet)


def rank_variables() -> dict[str, str]:
    """The environment variables of the process that forks ranks.

    They keep memory that a step frees for the next one, as a device's allocator does: on a busy
    host the first touch of fresh memory costs more than filling it.
    """
    keep = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_ARENA_MAX": "1"}
    return {**keep, LAUNCHER: str(os.getpid())}


def prepare_emulated(wanted: EmulatedJob) -> Path:
    """Check, plan, and make the record.

    Raises:
        InputError: whatever is wrong with the job.
    """
    emulating = required(system_of(wanted).emulating, wanted, "emulate")
    if wanted.transport != "torch" or wanted.launcher != "torchrun":
        raise InputError(
            f"--launcher {wanted.launcher}, --transport {wanted.transport}: emulated ranks are "
            "started here and talk over gloo; leave both out"
        )
    if wanted.device == "cuda":
        raise InputError("--device cuda: emulated ranks compute nothing; leave it out")
    if wanted.world_size < 2:
        raise InputError(
            f"--world-size {wanted.world_size}: a single node has no link to emulate; give 2 or "
            "more"
        )
    if wanted.out:
        record.claim_folder(Path(wanted.out))
    plan = emulating.plan(wanted)
    emulation = choose_emulation(wanted, plan, emulating)
    job = job_alone(wanted)
    resolved = system_of(job).planning.resolved(job, plan)
    return create_record(resolved, plan, "emulated", emulation)


def choose_emulation(wanted: EmulatedJob, plan: Any, emulating: Emulating) -> Emulation:
    """The scale and the dilation of a run: those that the user gives, or else fitting ones."""
    scale, dilate = wanted.scale, wanted.dilate
    if dilate is None:
        step_s = emulating.emulated_step_s(plan)
        dilate = step_s / (emulating.predicted_step_s(plan) or step_s)
        dilate = min(max(dilate, DILATIONS[0]), DILATIONS[1])
    if scale is None:
        fastest = max(emulating.link_rates(wanted, plan, Emulation(dilate=dilate)))
        scale = max(1.0, fastest / LINK_BITS_PER_S)
    return Emulation(scale=scale, dilate=dilate)
