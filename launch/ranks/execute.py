"""Runs one job in a world of ranks that is up, and leaves its record."""

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from launch.installed import system_of
from launch.ranks.instruments import Instruments
from launch.ranks.shaped import Watch, shaped_result
from launch.records import read_emulation, read_shaped, what_is_kept
from systems import disk, schema
from systems.disk import DiskError
from systems.job import Job
from systems.network.distributed import World
from systems.network.links import Calibration
from systems.network.pairs import PairCalibration
from systems.processes import failures
from systems.profiles.emulation import Emulation
from systems.runs import record, trace
from systems.runs.checkpoint import Checkpoints, open_checkpoints
from systems.runs.manifest import FOLDER as CHECKPOINTS
from systems.runs.record import Step
from systems.runs.shaped import Shaped, busy_words
from systems.system import Opened, Steps

PROGRESS_LINES = 5
"""About so many lines of progress are printed in a run."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One job in a world that is up, as one rank sees it."""

    job: Job
    plan: Any
    world: World
    folder: Path
    """The record."""
    emulation: Emulation | None
    shaped: Shaped | None
    opened: Opened


def execute(
    job: Job,
    plan: Any,
    world: World,
    folder: Path,
    calibration: Calibration | PairCalibration | None,
) -> None:
    """Do this rank's part of a job, and write the record in `folder`.

    Args:
        calibration: what emulated or shaped links were measured to give; None on this machine's
            own.
    """
    emulation, shaped = read_emulation(folder), read_shaped(folder)
    opened = system_of(job).open(job, plan, emulation)
    run = _Run(
        job=job,
        plan=plan,
        world=world,
        folder=folder,
        emulation=emulation,
        shaped=shaped,
        opened=opened,
    )
    if world.rank == 0:
        print(_first_line(run), flush=True)
    watch = None if shaped is None else Watch()
    if isinstance(opened.work, Steps):
        instruments = Instruments(job, world, folder, opened.work.last)
        summary = _summary_of_steps(run, opened.work, instruments)
    else:
        instruments = Instruments(job, world, folder, 0)
        summary = opened.work(world)
    usage = instruments.close()
    conditions = watch.close() if watch is not None else None
    if world.rank != 0:
        return
    result = {
        "tier": "measured",
        "launcher": world.launcher,
        "device": _name_of(world.device),
        "threads_per_rank": torch.get_num_threads(),
        "usage": usage,
        **summary,
    }
    # Each tier adds what its links and its machine were found to give.
    if emulation is not None:
        result = _emulated(result, job, plan, emulation, calibration)
    if shaped is not None and conditions is not None:
        result |= shaped_result(shaped, conditions, calibration)
    record.write_json(folder / "result.json", result)
    if job.trace:
        trace.join(folder, [world.name(rank) for rank in range(world.world_size)])
    line = system_of(job).line(result) + busy_words(result)
    print(f"  {line}\n  record: {folder}", flush=True)


def _summary_of_steps(run: _Run, work: Steps, instruments: Instruments) -> dict[str, Any]:
    """Do the steps and gather them from all ranks. Returns what the system makes of them on rank
    0, and nothing on the others."""
    job, world, folder = run.job, run.world, run.folder
    checkpoints = Checkpoints.off(world)  # an emulated run has no weights to save
    if run.emulation is None:
        checkpoints = open_checkpoints(
            world,
            folder / CHECKPOINTS,
            every=job.checkpoint_every,
            keep=job.checkpoint_keep,
            layout=f"{world.world_size} ranks, {run.opened.roles}",
            resume=job.resume,
        )
    steps = _run_steps(run, work, checkpoints, instruments)
    everyone: list[Any] = [None] * world.world_size
    with world.meeting("the gathering of the steps"):
        dist.gather_object(steps, everyone if world.rank == 0 else None, dst=0)
    if world.rank != 0:
        return {}
    everyone += record.former_steps(folder, world.world_size, checkpoints.first_step)
    training = system_of(job).training
    assert training is not None  # its work has steps
    summary = {"first_step": everyone[0][0].index}
    summary |= training.summarize(job, run.plan, everyone, run.emulation)
    if summary.get("predicted_step_s") is None:
        summary["no_prediction"] = training.no_prediction(job)
    return summary | record.not_finite(everyone, summary)


def _run_steps(
    run: _Run, work: Steps, checkpoints: Checkpoints, instruments: Instruments
) -> list[Step]:
    """Do the steps that are left, and write each of them at once. Returns all steps of this rank,
    with those of earlier attempts."""
    world, folder = run.world, run.folder
    if world.rank == 0:
        record.write_last(folder, work.last)
    with record.StepWriter(folder, world.rank, checkpoints.first_step) as writer:
        steps = list(writer.earlier)
        started = time.perf_counter()
        for step in work.run(world, instruments.tracer, checkpoints):
            if run.emulation is not None:  # the loss of zeros means nothing
                metrics = {k: v for k, v in step.metrics.items() if k != "loss_sum"}
                step = Step(step.index, metrics)
            writer.write(step)
            _warn_of_lost_loss(step, world, folder)
            instruments.after(step.index)
            steps.append(step)
            _print_progress(work, world, step, started)
    return steps


def _emulated(
    result: dict[str, Any],
    job: Job,
    plan: Any,
    emulation: Emulation,
    calibration: Calibration | PairCalibration | None,
) -> dict[str, Any]:
    """The result without what means nothing for stand-ins, with what the links were."""
    emulating = system_of(job).emulating
    assert emulating is not None  # the run is emulated
    meaningful = {k: v for k, v in result.items() if k not in ("loss", "test_accuracy", "usage")}
    return meaningful | {
        "tier": "emulated",
        "emulation": schema.dump(emulation),
        "calibration": schema.dump(calibration),
        "simulated_step_s": emulating.simulated_step_s(job, plan),
    }


def _name_of(device: torch.device) -> str:
    """Return the name that a record gives a device, such as "cpu" or a GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _first_line(run: _Run) -> str:
    """Print the tier, the world, the roles and the data: every later number depends on them."""
    job, world, emulation, tier = run.job, run.world, run.emulation, "measured"
    if run.shaped is not None:
        tier = f"shaped ({run.shaped.shape}; {run.shaped.held})"
    if emulation is not None:
        tier = (
            f"emulated (scale {emulation.scale:.4g}, dilate {emulation.dilate:.4g}, undone below)"
        )
    return (
        f"{job.name} | tier {tier} | {run.opened.scheme} | "
        f"world size {world.world_size}: {run.opened.roles} on {world.device.type}, "
        f"{job.transport} transport | data {run.opened.data}"
    )


def _print_progress(work: Steps, world: World, step: Step, started: float) -> None:
    """Print a line of progress on rank 0, now and then."""
    every = max(1, work.last // PROGRESS_LINES)
    if record.QUIET in os.environ or world.rank != 0:
        return
    if step.index == 0 or step.index % every != 0 or step.index >= work.last:
        return
    loss = ""
    if work.shows_loss and "loss_sum" in step.metrics:
        loss = f", loss {step.metrics['loss_sum'] / step.metrics['samples']:.4f}"
    lasted_s = time.perf_counter() - started
    print(f"  step {step.index}/{work.last}, {lasted_s:.1f} s{loss}", flush=True)


def _warn_of_lost_loss(step: Step, world: World, folder: Path) -> None:
    """Warn once, on the rank that sees it first, that the loss of a run is no number any more."""
    loss = step.metrics.get("loss_sum", 0.0)
    if math.isfinite(loss) or world.store.add(f"loss lost in {folder}", 1) > 1:
        return
    print(
        f"warning: the loss is {loss} since step {step.index} (rank {world.rank}); in the record "
        "it is null; perhaps a smaller learning rate helps",
        file=sys.stderr,
        flush=True,
    )


@contextmanager
def disk_errors_explained(folder: Path, world: World) -> Iterator[None]:
    """Turn a file that could not be written into the end of this rank with exit code 2. One rank
    says which file it was and what the record holds all the same; the others only keep it.

    Raises:
        SystemExit: a file could not be written.
    """
    try:
        yield
    except (DiskError, OSError) as error:
        if isinstance(error, OSError) and not disk.is_full(error):
            raise
        what = str(error)
        if isinstance(error, OSError):  # such as of a log that goes to a file
            what = f"disk full: {error.filename or 'the output'} could not be written"
        first = world.rank == 0
        if not (isinstance(error, DiskError) and error.everywhere):
            with suppress(RuntimeError):  # the store has gone with the rank that was first
                first = world.store.add(f"disk full under {folder}", 1) == 1
        report = failures.tell if first else failures.keep
        report(world.rank, f"{what}; {what_is_kept(folder)}")
        raise SystemExit(2) from None
