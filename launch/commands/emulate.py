"""`launch emulate JOB.toml [flags]`: the job on a cluster emulated by this machine.

    python -m launch emulate launch/jobs/stanza-vgg16-random.toml --cluster ec2-p3-10g --dilate 2

The same job files and flags as `launch run`: the same program runs, one rank a node (with
sparsepipe, one a device), over links shaped to the cluster's rate; computation is replaced by waits
as long as the model's profile says.
Needs Linux, root and iproute2.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch import job as jobs
from launch.drivers import driver
from launch.job import Job
from launch.launchers.start import run_command
from launch.progress.progress import ProgressFlags, shown
from launch.records import create_record
from systems.network.emulate import LAUNCHER
from systems.network.namespaces import check_available
from systems.profiles.emulation import Emulation
from systems.runs import record
from systems.schema import InputError

LINK_BITS_PER_S = 0.25e9
"""Rate of an emulated link where the user says nothing: ten nodes at this rate leave two cores time
for the ranks themselves."""
DILATIONS = (0.15, 16.0)
"""Bounds of the dilation that is chosen here."""


@dataclass(frozen=True, kw_only=True)
class EmulatedJob(Job, ProgressFlags):
    """A run of one system on an emulated cluster."""

    scale: float | None = None
    """Divides message sizes and link rates. None: so that links have 0.25 Gb/s."""
    dilate: float | None = None
    """Stretches all durations; results are reported undone. None: to steps of about a second."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {"scale": self.scale, "dilate": self.dilate}
        Emulation(**{name: value for name, value in given.items() if value is not None})


def main(arguments: Sequence[str]) -> None:
    """Plan, emulate, leave a record."""
    check_available()
    given = jobs.parse("emulate", arguments, EmulatedJob())
    given.apply()
    folder = prepare(given)
    code = run_emulated([folder], tensorboard=given.tensorboard)
    if code:
        print(f"error: the emulated run ended with code {code}, see above", file=sys.stderr)
        raise SystemExit(code if code > 0 else 128 - code)


def run_emulated(folders: Sequence[Path], *, tensorboard: bool = False) -> int:
    """Run the jobs of records one after the other on one emulated cluster; returns an exit code."""
    command = [sys.executable, "-m", "launch", "ranks", "--records", *map(str, folders)]
    # Keep memory that a step frees for the next one, as a device's allocator does: on a busy host
    # the first touch of fresh memory costs more than filling it.
    keep = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_ARENA_MAX": "1"}
    with shown(folders, tensorboard=tensorboard):
        return run_command(command, {**keep, LAUNCHER: str(os.getpid())}, folders)


def prepare(given: EmulatedJob) -> Path:
    """Check, plan, and make the record.

    Raises:
        InputError: whatever is wrong with the job.
    """
    if given.transport != "torch" or given.launcher != "torchrun":
        raise InputError(
            f"--launcher {given.launcher}, --transport {given.transport}: emulated ranks are "
            "started here and talk over gloo; leave both out"
        )
    if given.world_size < 2:
        raise InputError(
            f"--world-size {given.world_size}: a single node has no link to emulate; give 2 or more"
        )
    if given.out:
        record.claim_folder(Path(given.out))
    system = driver(given)
    plan = system.plan_emulated(given)
    emulation = choose(given, plan)
    job = jobs.without_flags_of_command(given)
    return create_record(system.resolved(job, plan), plan, "emulated", emulation)


def choose(given: EmulatedJob, plan: Any) -> Emulation:
    """The scale and dilation of a run, where the user has left them open."""
    system, scale, dilate = driver(given), given.scale, given.dilate
    if dilate is None:
        step_s = system.emulated_step_s(plan)
        dilate = step_s / (system.predicted_step_s(plan) or step_s)
        dilate = min(max(dilate, DILATIONS[0]), DILATIONS[1])
    if scale is None:
        fastest = max(system.link_rates(given, plan, Emulation(dilate=dilate)))
        scale = max(1.0, fastest / LINK_BITS_PER_S)
    return Emulation(scale=scale, dilate=dilate)
