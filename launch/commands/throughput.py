"""`launch throughput JOB.toml [flags]`: the job at several batch sizes and world sizes.

    python -m launch throughput launch/jobs/stanza-digits.toml --world-sizes 2 4 --batch-sizes 48 96

Every point is a record in the folder of the sweep. Points that are there already are kept, in the
table too, and are not run again: a sweep that was interrupted goes on, and a wider one adds to it.
"""

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from launch import job as jobs
from launch.commands.run import prepare_run
from launch.installed import system_of
from launch.launchers.start import run_ranks
from launch.records import RUNS, read_result
from systems import disk
from systems.flags import named_as_given, refuse_below_one
from systems.job import Job, job_alone
from systems.runs import record
from systems.schema import InputError

PERCENTILES = (50, 90, 99)
EXPLAINED = """\
step: milliseconds of the slowest rank, percentiles over the n measured steps. link: megabytes per
second that the busiest rank sends and receives, over TCP, no headers. busy: processor time over
time and threads, mean of the ranks. memory: the largest rank's peak. -: not known here."""
"""What the columns of the table mean."""


@dataclass(frozen=True, kw_only=True)
class ThroughputJob(Job):
    """Run a job at several sizes."""

    world_sizes: tuple[int, ...] = ()
    """The numbers of ranks to run. Without any, the number of the job is run."""
    batch_sizes: tuple[int, ...] = ()
    """The numbers of samples in a step, over all ranks. Without any, the number of the job is
    run."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one run of the sweep gave, a row of the CSV. None: not known here, or not run."""

    world_size: int
    batch_size: int
    """Samples in a step, over all ranks."""
    samples_per_s: float | None = None
    step_p50_s: float | None = None
    """The median of the measured steps, each as long as its slowest rank took."""
    step_p90_s: float | None = None
    step_p99_s: float | None = None
    steps: int | None = None
    """The number of measured steps."""
    sent_bytes_per_s: float | None = None
    """The rate of the rank that sends most."""
    received_bytes_per_s: float | None = None
    utilisation: float | None = None
    """Processor time over time and threads, the mean of the ranks."""
    peak_memory_bytes: int | None = None
    record: str = ""
    """The folder of the run."""
    error: str = ""
    """Why there are no figures; empty where there are."""

    @property
    def size(self) -> tuple[int, int]:
        """World size and batch size, by which points are told apart and sorted."""
        return self.world_size, self.batch_size


def main(arguments: Sequence[str]) -> None:
    """Run the points that have not been run, print the table, write the CSV."""
    wanted = jobs.parse_job("throughput", arguments, ThroughputJob)
    world_sizes = wanted.world_sizes or (wanted.world_size,)
    batch_sizes = wanted.batch_sizes or (_batch_size(wanted),)
    refuse_below_one({"world-sizes": world_sizes, "batch-sizes": batch_sizes})
    if wanted.launcher == "slurm":
        raise InputError("--launcher slurm: a sweep waits for its runs; give another launcher")
    job = dataclasses.replace(job_alone(wanted), out=None)
    folder = Path(wanted.out or RUNS / f"throughput-{wanted.name}")
    _claim_sweep(folder, job)
    print(f"{job.name} | tier measured | {job.launcher} | one machine | {folder}\n{_header()}")
    rows = {point.size: point for point in _recorded(folder)}
    points: list[Point] = []
    for world_size in world_sizes:
        for batch_size in batch_sizes:
            point = rows.get((world_size, batch_size)) or _run_point(
                job, world_size, batch_size, folder
            )
            rows[point.size] = point
            points.append(point)
            print(_line(point), flush=True)
            _write([rows[size] for size in sorted(rows)], folder / "throughput.csv")
    others = len(rows) - len({point.size for point in points})
    beside = f", with {others} points of earlier sweeps" if others else ""
    print(f"{EXPLAINED}\ntable: {folder}/throughput.csv{beside}")
    if all(point.error for point in points):
        raise SystemExit(1)


def _batch_size(job: Job) -> int:
    """The samples of a step as the job has them, for a sweep that names no batch sizes.

    Raises:
        InputError: they depend on what the planner answers.
    """
    samples = system_of(job).batch_size(job)
    if samples is None:
        raise InputError(
            "--batch-sizes (none): the job gives samples of each worker, and how many workers "
            "there are is planned; give samples of a step over all ranks"
        )
    return samples


def _claim_sweep(folder: Path, job: Job) -> None:
    """Make the folder of the sweep, or go on in it.

    Raises:
        InputError: it holds something else, or the points of another job.
    """
    file = folder / "job.toml"
    if not file.is_file():
        record.claim_folder(folder)
        jobs.save_job(job, file)
        return
    if dataclasses.replace(jobs.load_job(file), world_size=job.world_size) != job:
        raise InputError(f"--out {folder}: holds the points of another job; give another folder")


def _recorded(folder: Path) -> Iterator[Point]:
    """The points whose records are in the folder already."""
    for result in folder.glob("world-*-batch-*/result.json"):
        _, world_size, _, batch_size = result.parent.name.split("-")
        yield _with_figures(
            Point(world_size=int(world_size), batch_size=int(batch_size), record=str(result.parent))
        )


def _run_point(job: Job, world_size: int, batch_size: int, folder: Path) -> Point:
    """Run the job at one size; returns the figures, or why there are none."""
    path = folder / f"world-{world_size}-batch-{batch_size}"
    point = Point(world_size=world_size, batch_size=batch_size, record=str(path))
    shutil.rmtree(path, ignore_errors=True)  # what an interruption left
    system = system_of(job)
    names = {"world-size": "world-sizes", system.batch_size_option: "batch-sizes"}
    try:
        sized = dataclasses.replace(job, world_size=world_size, out=str(path))
        with named_as_given(names):
            prepare_run(system.with_batch_size(sized, batch_size))
    except InputError as error:
        return dataclasses.replace(point, error=str(error))
    code = run_ranks(sized, [path], quiet=True)
    if code:
        reason = f"{job.launcher} ended with code {code}, see above"
        return dataclasses.replace(point, error=reason)
    return _with_figures(point)


def _with_figures(point: Point) -> Point:
    """The point with the figures of its run."""
    folder = Path(point.record)
    result = read_result(folder)
    usage = result["usage"]
    times_s = step_times_s(folder, result)
    percentiles: dict[str, Any] = {
        f"step_p{p}_s": float(np.percentile(times_s, p)) for p in PERCENTILES if times_s
    }
    return dataclasses.replace(
        point,
        samples_per_s=result.get("samples_per_s"),
        **percentiles,
        steps=len(times_s),
        sent_bytes_per_s=_over_ranks(max, usage, "sent_bytes_per_s"),
        received_bytes_per_s=_over_ranks(max, usage, "received_bytes_per_s"),
        utilisation=_over_ranks(mean, usage, "utilisation"),
        peak_memory_bytes=_over_ranks(max, usage, "peak_memory_bytes"),
    )


def step_times_s(folder: Path, result: dict[str, Any]) -> list[float]:
    """The seconds of every measured step of a run, on the rank that took longest in it."""
    measured = result.get("step_s", {}).get("n", 0)
    ranks = [record.read_steps(folder, rank) for rank in range(len(result["usage"]))]
    times: dict[int, float] = {}
    for step in (step for steps in ranks for step in steps):
        if "step_s" in step.metrics:
            times[step.index] = max(times.get(step.index, 0.0), step.metrics["step_s"])
    return [times[index] for index in sorted(times)][-measured:] if measured else []


def _over_ranks(function: Any, usage: Sequence[dict[str, Any]], name: str) -> Any:
    """A maximum or mean of one figure over the ranks that have it; None if no rank has it."""
    figures = [of_rank[name] for of_rank in usage if of_rank.get(name) is not None]
    return function(figures) if figures else None


def _write(points: Sequence[Point], path: Path) -> None:
    """Write the CSV, whole or not at all."""
    header = [field.name for field in dataclasses.fields(Point)]
    disk.write_table(path, [header, *(dataclasses.astuple(point) for point in points)])


def _header() -> str:
    """The first line of the table."""
    return (
        f"{'ranks':>5}{'batch':>7}{'samples/s':>11}{'step p50':>10}{'p90':>9}{'p99':>9}{'n':>6}"
        f"{'link MB/s out':>15}{'in':>8}{'busy':>6}{'memory MB':>11}"
    )


def _line(point: Point) -> str:
    """A point as a line of the table."""
    start = f"{point.world_size:>5}{point.batch_size:>7}"
    if point.error:
        return f"{start}  {point.error}"
    return (
        f"{start}{_cell(point.samples_per_s, 1, 11, ',.0f')}{_cell(point.step_p50_s, 1e3, 10)}"
        f"{_cell(point.step_p90_s, 1e3, 9)}{_cell(point.step_p99_s, 1e3, 9)}{point.steps:>6}"
        f"{_cell(point.sent_bytes_per_s, 1e-6, 15)}{_cell(point.received_bytes_per_s, 1e-6, 8)}"
        f"{_cell(point.utilisation, 1, 6, '.0%')}{_cell(point.peak_memory_bytes, 1e-6, 11, '.0f')}"
    )


def _cell(value: float | None, factor: float, width: int, form: str = ".2f") -> str:
    """A figure times a factor as a cell of the table; a dash if it is not known."""
    return f"{'-' if value is None else format(value * factor, form):>{width}}"
