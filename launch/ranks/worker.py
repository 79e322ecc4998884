"""One rank of a run: `torchrun ... -m launch worker JOB.toml [flags]`.

`launch run` and `launch reproduce` prepare record folders and start `worker --records FOLDER ...`,
which runs several jobs one after the other in one world; both ways end in `execute`.
"""

import dataclasses
import faulthandler
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from launch import job as jobs
from launch.drivers import Opened, driver
from launch.job import Job
from launch.ranks.instruments import Instruments
from launch.records import (
    create_record,
    earlier_attempt,
    kept,
    read_emulation,
    read_plan,
)
from systems import disk, dynamo, schema
from systems.disk import DiskError
from systems.environment import Environment, environment
from systems.network.distributed import World, start, stop
from systems.network.links import Calibration, calibrate
from systems.network.transport import TransportError
from systems.processes import failures
from systems.processes.lifetime import die_with_parent
from systems.profiles.emulation import Emulation
from systems.runs import record, trace
from systems.runs.checkpoint import Checkpoints, open_checkpoints
from systems.runs.manifest import FOLDER as CHECKPOINTS
from systems.runs.record import Step
from systems.schema import InputError

PROGRESS_LINES = 5
CALIBRATION_S = 0.1
"""A calibrating message lasts this long."""
GRACE_S = 1.0
"""A rank that lost its peer waits this long, so that the launcher sees first who died first."""


def main(arguments: Sequence[str]) -> None:
    """Run this rank's part of one or several jobs."""
    faulthandler.enable()
    if "LOCAL_RANK" in os.environ:
        die_with_parent(signal.SIGKILL)  # torchrun's agent
    work(arguments, environment())


def work(arguments: Sequence[str], place: Environment) -> None:
    """Run jobs as the rank that `place` says; why it fails is said, and kept
    (systems.processes.failures)."""
    dynamo.postpone()
    try:
        _run(arguments, place)
    except Exception as error:
        raise SystemExit(_fail(error, place.rank)) from None


def _fail(error: Exception, rank: int) -> int:
    """Say why this rank fails; returns its exit code."""
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


def _run(arguments: Sequence[str], place: Environment) -> None:
    if arguments and arguments[0] == "--records":
        folders = [Path(name) for name in arguments[1:]]
        if not folders:
            raise InputError("--records: names no record; give the folders of runs")
        failures.keep_in(folders[0])
        todo = [read_plan(folder) for folder in folders]
    else:
        given = jobs.parse("worker", arguments, Job())
        job, plan = _resolve(given, place)
        todo, folders = [(job, plan)], []
    first_job, first_plan = todo[0]
    world = start(
        place,
        driver(first_job).roles(first_job, first_plan),
        timeout_s=first_job.timeout_s,
        device=first_job.device,
    )
    if not folders:
        folders = [_agree_on_folder(world, *todo[0], place)]
        failures.keep_in(folders[0])
    calibration = _calibrated(place, folders[0], first_job, first_plan)
    for (job, plan), folder in zip(todo, folders, strict=True):
        failures.keep_in(folder)
        roles = driver(job).roles(job, plan)
        with _saying_what_is_kept(folder, world):
            execute(job, plan, world.with_roles(roles), folder, calibration)
    stop(world)


def _resolve(given: Job, place: Environment) -> tuple[Job, Any]:
    """Plan on every rank alike: nothing is measured here."""
    launcher: Any = given.launcher if place.launcher == "none" else place.launcher
    job = dataclasses.replace(given, world_size=place.world_size, launcher=launcher)
    if place.elastic and place.world_size != given.world_size:  # the loss of a node is no mistake
        job = driver(job).for_world(job, place.world_size)
    plan = driver(job).plan_job(job, may_measure=False)
    return driver(job).resolved(job, plan), plan


def _agree_on_folder(world: World, job: Job, plan: Any, place: Environment) -> Path:
    """Rank 0 makes the record's folder, or finds an earlier attempt's, and tells the others."""
    if world.rank == 0:
        folder = earlier_attempt(job, plan, place) or create_record(job, plan, run_id=place.run_id)
        world.store.set("record", str(folder))
    return Path(world.store.get("record").decode())


def _calibrated(place: Environment, folder: Path, job: Job, plan: Any) -> Calibration | None:
    """What the emulated links really give; None on real ones.

    Raises:
        RuntimeError: a link that is far from its rate: nothing measured over it would be true.
    """
    emulation = read_emulation(folder)
    if emulation is None:
        return None
    rates = driver(job).link_rates(job, plan, emulation)
    calibration = calibrate(rates, round(min(rates) / 8 * CALIBRATION_S))
    if place.rank == 0:
        print(f"links at {min(rates) / 1e9:.3g} Gb/s: {calibration}", flush=True)
    fault = calibration.fault()
    if fault is not None:
        raise InputError(f"{fault}: nothing is reported; give a larger --scale or --dilate")
    return calibration


def execute(
    job: Job, plan: Any, world: World, folder: Path, calibration: Calibration | None
) -> None:
    """Run one job in a world that is up; leaves the record in `folder`."""
    emulation = read_emulation(folder)
    opened = driver(job).open(job, plan, emulation)
    if world.rank == 0:
        print(_first_line(job, opened, world, emulation), flush=True)
        record.write_last(folder, opened.last)
    instruments = Instruments(job, world, folder, opened.last)
    resumable = emulation is None
    checkpoints = _checkpoints(job, opened, world, folder) if resumable else Checkpoints.off(world)
    first = checkpoints.first_step
    with record.StepWriter(folder, world.rank, first) as writer:
        steps = list(writer.earlier)
        started = time.perf_counter()
        for step in opened.steps(world, instruments.tracer, checkpoints):
            if emulation is not None:  # losses of zeros mean nothing
                told = {k: v for k, v in step.metrics.items() if k != "loss_sum"}
                step = record.Step(step.index, told)
            writer.write(step)
            _tell_of_lost_loss(step, world, folder)
            instruments.after(step.index)
            steps.append(step)
            _print_progress(opened.last, world, step, started)
    used = instruments.close()
    everyone = _gather(world, steps)
    if world.rank == 0:
        everyone += record.former_steps(folder, world.world_size, first)
        result = {
            "tier": "measured",
            "launcher": world.launcher,
            "threads_per_rank": torch.get_num_threads(),
            "first_step": everyone[0][0].index,
            "usage": used,
            **driver(job).summarize(job, plan, everyone, emulation),
        }
        if emulation is not None:
            result = _emulated(result, job, plan, emulation, calibration)
        result |= record.not_finite(everyone, result)
        record.write_json(folder / "result.json", result)
        if job.trace:
            trace.join(folder, [world.name(rank) for rank in range(world.world_size)])
        print(f"  {driver(job).line(result)}\n  record: {folder}", flush=True)


@contextmanager
def _saying_what_is_kept(folder: Path, world: World) -> Iterator[None]:
    """Where a file could not be written, one rank says so, and what the record has all the same."""
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
        if first:
            failures.tell(world.rank, f"{what}; {kept(folder)}")
        else:  # one rank says it, each keeps it
            failures.keep(world.rank, f"{what}; {kept(folder)}")
        raise SystemExit(2) from None


def _checkpoints(job: Job, opened: Opened, world: World, folder: Path) -> Checkpoints:
    return open_checkpoints(
        world,
        folder / CHECKPOINTS,
        every=job.checkpoint_every,
        keep=job.checkpoint_keep,
        layout=f"{world.world_size} ranks, {opened.roles}",
        resume=job.resume,
    )


def _emulated(
    result: dict[str, Any],
    job: Job,
    plan: Any,
    emulation: Emulation,
    calibration: Calibration | None,
) -> dict[str, Any]:
    """The result without what means nothing for stand-ins, with what the links were."""
    kept = {k: v for k, v in result.items() if k not in ("loss", "test_accuracy", "usage")}
    return kept | {
        "tier": "emulated",
        "emulation": schema.dump(emulation),
        "calibration": schema.dump(calibration),
        "simulated_step_s": driver(job).simulated_step_s(job, plan),
    }


def _first_line(job: Job, opened: Opened, world: World, emulation: Emulation | None) -> str:
    """Tier, world, roles and data: what every number below it depends on."""
    tier = "measured"
    if emulation is not None:
        tier = (
            f"emulated (scale {emulation.scale:.4g}, dilate {emulation.dilate:.4g}, undone below)"
        )
    return (
        f"{job.name} | tier {tier} | {opened.scheme} | "
        f"world size {world.world_size}: {opened.roles} on {world.device.type}, "
        f"{job.transport} transport | data {opened.data}"
    )


def _print_progress(last: int, world: World, step: Step, started: float) -> None:
    every = max(1, last // PROGRESS_LINES)
    if (
        record.QUIET in os.environ
        or world.rank
        or step.index == 0
        or step.index % every
        or step.index >= last
    ):
        return
    lasted_s = time.perf_counter() - started
    # Only a worker with the whole model has the losses of its own samples.
    loss = step.metrics.get("loss_sum") if world.roles[0] == "worker" else None
    text = f", loss {loss / step.metrics['samples']:.4f}" if loss is not None else ""
    print(f"  step {step.index}/{last}, {lasted_s:.1f} s{text}", flush=True)


def _tell_of_lost_loss(step: Step, world: World, folder: Path) -> None:
    """Say in one line, on the rank that sees it first, that a run's loss is no number any more."""
    loss = step.metrics.get("loss_sum", 0.0)
    if math.isfinite(loss) or world.store.add(f"loss lost in {folder}", 1) > 1:
        return
    print(
        f"warning: the loss is {loss} since step {step.index} (rank {world.rank}); in the record "
        "it is null; perhaps a smaller learning rate helps",
        file=sys.stderr,
        flush=True,
    )


def _gather(world: World, steps: list[Step]) -> list[list[Step]]:
    """Every rank's steps, on rank 0."""
    everyone: list[Any] = [None] * world.world_size
    with world.meeting("the gathering of the steps"):
        dist.gather_object(steps, everyone if world.rank == 0 else None, dst=0)
    return everyone
