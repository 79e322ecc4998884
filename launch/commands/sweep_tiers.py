"""Runs the points of a sweep, each tier in its way. A point that fails says why, and the others are
run all the same."""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from launch import job as jobs
from launch.commands.emulate import EmulatedJob, prepare_emulated, run_emulated
from launch.commands.run import prepare_run
from launch.commands.shape import measure_shaped, prepare_shaped, profiled_alike, run_shaped
from launch.commands.simulate import simulate_job
from launch.installed import system_of
from launch.launchers.start import run_ranks
from launch.planning import required
from launch.progress.progress import shown
from launch.records import emulated_rates
from launch.sweep.points import Point, Sweep
from launch.sweep.variables import BANDWIDTH, counted
from systems.clusters.shape import Shape, shape_of
from systems.flags import named_as_given
from systems.job import Job
from systems.network.namespaces import unavailable
from systems.processes import failures
from systems.runs.record import Tier
from systems.runs.shaped import Measured
from systems.schema import InputError

REMEDIES = {
    "profile": "--profile FILE, made with `testbed profile`",
    "cluster": "--cluster FILE, which states the rate of its links",
}
"""How to do without a measurement, by the option that spares it."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A sweep that is run, with what its points share beside the job."""

    sweep: Sweep
    scale: float | None
    dilate: float | None
    """The two factors of every emulated point; None chooses them for each."""
    tensorboard: bool
    named: Mapping[str, str]
    """What the command line calls options that errors name; see `systems.flags.named_as_given`."""


def measured_anew(job: Job, names: Sequence[str] = ()) -> str | None:
    """Why a simulated point cannot be compared with others: figures of its job are missing, and
    would be measured for it alone. None: all figures are known.

    Args:
        names: what the sweep varies beside the job; the rate of links is then known.
    """
    missing = list(system_of(job).measured_first(job))
    if BANDWIDTH in names and "cluster" in missing:
        missing.remove("cluster")
    if not missing:
        return None
    remedies = " and ".join(REMEDIES[name] for name in missing)
    return (
        f"--tier simulated: {' and '.join(missing)} would be measured anew at every point, and the "
        f"points would differ by that; give {remedies}"
    )


def why_not(job: Job, tier: Tier, names: Sequence[str]) -> str | None:
    """Say why no point of a tier can be run here; None if some can.

    Args:
        names: what the sweep varies.
    """
    try:
        if tier == "simulated":
            required(system_of(job).simulate, job, "simulate")
            return None
        if tier == "emulated":
            required(system_of(job).emulating, job, "emulate")
            reason = unavailable()
            return reason and f"--tier emulated: {reason}"
        if tier == "shaped":
            reason = unavailable()
            return reason and f"--tier shaped: {reason}"
    except InputError as error:
        return str(error)
    if reason := own_links(names):
        return reason
    if job.launcher == "slurm":
        return "--launcher slurm: a sweep waits for its runs; add --elsewhere"
    return None


def own_links(names: Sequence[str]) -> str | None:
    """Say why measured points cannot vary the rate of links; None if they do not."""
    if BANDWIDTH not in names:
        return None
    return (
        f"--over {BANDWIDTH}: --tier measured has the links of its machines, at their own rate; "
        "leave one of them out"
    )


def run_points(running: Running, tier: Tier, points: Sequence[Point]) -> Iterator[Point]:
    """Run points of one tier that have no result; yields each of them when it has ended."""
    return _RUNNERS[tier](running, points)


@contextmanager
def _failing(running: Running, point: Point) -> Iterator[None]:
    """Begin a point, and keep the error of the block as the reason why it has no result."""
    running.sweep.begin(point)
    try:
        with named_as_given(running.named):
            yield
    except InputError as error:
        running.sweep.note(point, str(error))


def _simulate(running: Running, points: Sequence[Point]) -> Iterator[Point]:
    """Play every point in this process."""
    for point in points:
        with _failing(running, point):
            job = running.sweep.job(point)
            if reason := measured_anew(job):
                raise InputError(reason)
            simulate_job(job)
        yield point


def _measure(running: Running, points: Sequence[Point]) -> Iterator[Point]:
    """Run every point in ranks of its own, so that its memory is its own too."""
    sweep = running.sweep
    for point in points:
        with _failing(running, point):
            job = sweep.job(point)
            folder = prepare_run(job)
            with shown([folder], tensorboard=running.tensorboard):
                code = run_ranks(job, [folder], quiet=True)
            if code:
                reason = f"{job.launcher} ended with code {code}, see above"
                sweep.note(point, failures.first(folder) or reason)
        yield point


def _emulate(running: Running, points: Sequence[Point]) -> Iterator[Point]:
    """Run the points of one world size and one emulated rate in one world, which starts once."""
    sweep = running.sweep
    worlds: dict[tuple[float, ...], list[Point]] = {}
    for point in points:
        with _failing(running, point):
            wanted = dataclasses.replace(
                jobs.with_flags(EmulatedJob, sweep.job(point)),
                scale=running.scale,
                dilate=running.dilate,
            )
            rates = emulated_rates(prepare_emulated(wanted))
            worlds.setdefault(rates, []).append(point)
            continue
        yield point  # it has failed
    for rates, alike in sorted(worlds.items(), key=lambda world: len(world[0])):
        print(f"{counted(len(alike), 'run')} on {len(rates)} emulated nodes", flush=True)
        yield from _one_world(running, alike, run_emulated)


def _shape(running: Running, points: Sequence[Point]) -> Iterator[Point]:
    """Run the points of one shaped cluster in one world. Every cluster is measured once for all
    points that its figures hold for."""
    sweep, measured = running.sweep, dict[Hashable, Measured]()
    worlds: dict[Shape, list[Point]] = {}
    for point in points:
        with _failing(running, point):
            job = sweep.job(point)
            shape = shape_of(job.cluster, job.world_size)
            alike = profiled_alike(job, shape)
            if alike not in measured:
                measured[alike] = measure_shaped(job, shape)
            prepare_shaped(job, shape, measured[alike])
            worlds.setdefault(shape, []).append(point)
            continue
        yield point  # it has failed
    for shape, alike_points in worlds.items():
        print(f"{counted(len(alike_points), 'run')} on a shaped cluster: {shape}", flush=True)
        yield from _one_world(running, alike_points, run_shaped)


def _one_world(running: Running, points: list[Point], run: Callable[..., int]) -> Iterator[Point]:
    """Run points in one world. If one of them ends it, those behind it get another world.

    Args:
        run: `run_emulated` or `run_shaped`.
    """
    sweep = running.sweep
    while points:
        folders = [sweep.record(point) for point in points]
        code = run(folders, tensorboard=running.tensorboard, quiet=True)
        left = [point for point in points if not sweep.has_result(point)]
        if left:
            reason = f"the ranks ended with code {code}, see above"
            sweep.note(left[0], failures.first(sweep.record(left[0])) or reason)
        yield from (point for point in points if point not in left[1:])
        points = left[1:]


_RUNNERS: dict[Tier, Callable[[Running, Sequence[Point]], Iterator[Point]]] = {
    "simulated": _simulate,
    "emulated": _emulate,
    "shaped": _shape,
    "measured": _measure,
}
