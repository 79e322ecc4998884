"""`launch throughput JOB.toml [flags]`: the job at several batch sizes and world sizes.

    python -m launch throughput launch/jobs/stanza-digits.toml --world-sizes 2 4 --batch-sizes 48 96

Every point is a record in the sweep's folder; those that are there already are not run again, so a
sweep that was interrupted goes on, and a wider one adds to it. Prints a table and writes it as CSV.
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
from launch.commands.run import prepare
from launch.drivers import driver
from launch.job import Job
from launch.launchers.start import run_ranks
from launch.records import RUNS, read_result
from systems import disk
from systems.runs import record
from systems.schema import InputError

NAMED_HERE = {
    "world-size": "world-sizes",
    "stanza.global-batch-size": "batch-sizes",
    "sparsepipe.batch-size": "batch-sizes",
    "speculative.batch-size": "batch-sizes",
}
"""What a sweep calls the sizes of a job."""
PERCENTILES = (50, 90, 99)
EXPLAINED = """\
step: milliseconds of the slowest rank, percentiles over the n measured steps. link: megabytes per
second that the busiest rank sends and receives, over TCP, no headers. busy: processor time over
time and threads, mean of the ranks. memory: the largest rank's peak. -: not known here."""


@dataclass(frozen=True, kw_only=True)
class ThroughputJob(Job):
    """A job at several sizes."""

    world_sizes: tuple[int, ...] = ()
    """Numbers of ranks. None given: the job's."""
    batch_sizes: tuple[int, ...] = ()
    """Samples of a step over all ranks. None given: the job's."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one run of the sweep gave; a row of the CSV. None: not known here, or not run."""

    world_size: int
    batch_size: int
    samples_per_s: float | None = None
    step_p50_s: float | None = None
    step_p90_s: float | None = None
    step_p99_s: float | None = None
    steps: int | None = None
    """That were measured."""
    sent_bytes_per_s: float | None = None
    received_bytes_per_s: float | None = None
    utilisation: float | None = None
    peak_memory_bytes: int | None = None
    record: str = ""
    """Its folder."""
    error: str = ""
    """Why there is nothing."""


def main(arguments: Sequence[str]) -> None:
    """Run what has not been run, print the table, write the CSV."""
    given = jobs.parse("throughput", arguments, ThroughputJob())
    sizes = given.world_sizes or (given.world_size,)
    batches = given.batch_sizes or (_batch_size(given),)
    jobs.refuse_below_one({"world-sizes": sizes, "batch-sizes": batches})
    if given.launcher == "slurm":
        raise InputError("--launcher slurm: a sweep waits for its runs; give another launcher")
    fields = {f.name: getattr(given, f.name) for f in dataclasses.fields(Job)}
    job, folder = (
        Job(**fields | {"out": None}),
        Path(given.out or RUNS / f"throughput-{given.name}"),
    )
    _claim(folder, job)
    print(f"{job.name} | tier measured | {job.launcher} | one machine | {folder}\n{_header()}")
    points: list[Point] = []
    earlier = _earlier(folder, {(size, batch) for size in sizes for batch in batches})
    for point in _points(job, sizes, batches, folder):
        points.append(point)
        print(_line(point), flush=True)
        rows = sorted([*earlier, *points], key=lambda row: (row.world_size, row.batch_size))
        _write(rows, folder / "throughput.csv")
    beside = f", with {len(earlier)} points of earlier sweeps" if earlier else ""
    print(f"{EXPLAINED}\ntable: {folder}/throughput.csv{beside}")
    if all(point.error for point in points):
        raise SystemExit(1)


def _batch_size(job: Job) -> int:
    """The samples of a step as the job has them, for a sweep that is given none.

    Raises:
        InputError: they depend on what the planner answers.
    """
    own = driver(job).batch_size(job)
    if own is None:
        raise InputError(
            "--batch-sizes (none): the job gives samples of each worker, and how many workers "
            "there are is planned; give samples of a step over all ranks"
        )
    return own


def _claim(folder: Path, job: Job) -> None:
    """Make the sweep's folder, or go on in it.

    Raises:
        InputError: it holds something else, or another job's points.
    """
    kept = folder / "job.toml"
    if not kept.is_file():
        record.claim_folder(folder)
        jobs.save(job, kept)
        return
    if dataclasses.replace(jobs.load(kept), world_size=job.world_size) != job:
        raise InputError(f"--out {folder}: holds the points of another job; give another folder")


def _points(
    job: Job, sizes: Sequence[int], batches: Sequence[int], folder: Path
) -> Iterator[Point]:
    for world_size in sizes:
        for batch_size in batches:
            where = folder / f"world-{world_size}-batch-{batch_size}"
            point = Point(world_size=world_size, batch_size=batch_size, record=str(where))
            if not (where / "result.json").is_file():
                error = _run(job, point)
                if error:
                    yield dataclasses.replace(point, error=error)
                    continue
            yield _read(point)


def _earlier(folder: Path, asked: set[tuple[int, int]]) -> list[Point]:
    """The points of earlier sweeps whose records are in the folder, without those asked for now."""
    found = []
    for result in folder.glob("world-*-batch-*/result.json"):
        _, world_size, _, batch_size = result.parent.name.split("-")
        size = int(world_size), int(batch_size)
        if size not in asked:
            found.append(Point(world_size=size[0], batch_size=size[1], record=str(result.parent)))
    return [_read(p) for p in sorted(found, key=lambda p: (p.world_size, p.batch_size))]


def _run(job: Job, point: Point) -> str:
    """Run a point; returns why there is no result, or nothing."""
    shutil.rmtree(point.record, ignore_errors=True)  # what an interruption left
    try:
        sized = dataclasses.replace(job, world_size=point.world_size, out=point.record)
        with jobs.named_as_given(NAMED_HERE):
            folder = prepare(driver(job).with_batch_size(sized, point.batch_size))
    except InputError as error:
        return str(error)
    code = run_ranks(sized, [folder], quiet=True)
    return f"{job.launcher} ended with code {code}, see above" if code else ""


def _read(point: Point) -> Point:
    """The figures of a point that has been run."""
    folder = Path(point.record)
    result = read_result(folder)
    used = result["usage"]
    times_s = step_times_s(folder, result)
    quantiles: dict[str, Any] = {
        f"step_p{p}_s": float(np.percentile(times_s, p)) for p in PERCENTILES if times_s
    }
    return dataclasses.replace(
        point,
        samples_per_s=result.get("samples_per_s"),
        **quantiles,
        steps=len(times_s),
        sent_bytes_per_s=_over(max, used, "sent_bytes_per_s"),
        received_bytes_per_s=_over(max, used, "received_bytes_per_s"),
        utilisation=_over(mean, used, "utilisation"),
        peak_memory_bytes=_over(max, used, "peak_memory_bytes"),
    )


def step_times_s(folder: Path, result: dict[str, Any]) -> list[float]:
    """Of a run's measured steps, on the rank that took longest in each."""
    measured = result.get("step_s", {}).get("n", 0)
    ranks = [record.read_steps(folder, rank) for rank in range(len(result["usage"]))]
    times: dict[int, float] = {}
    for step in (step for steps in ranks for step in steps):
        if "step_s" in step.metrics:
            times[step.index] = max(times.get(step.index, 0.0), step.metrics["step_s"])
    return [times[index] for index in sorted(times)][-measured:] if measured else []


def _over(summary: Any, used: Sequence[dict[str, Any]], name: str) -> Any:
    known = [of_rank[name] for of_rank in used if of_rank.get(name) is not None]
    return summary(known) if known else None


def _write(points: Sequence[Point], path: Path) -> None:
    header = [field.name for field in dataclasses.fields(Point)]
    disk.write_table(path, [header, *(dataclasses.astuple(point) for point in points)])


def _header() -> str:
    return (
        f"{'ranks':>5}{'batch':>7}{'samples/s':>11}{'step p50':>10}{'p90':>9}{'p99':>9}{'n':>6}"
        f"{'link MB/s out':>15}{'in':>8}{'busy':>6}{'memory MB':>11}"
    )


def _line(point: Point) -> str:
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
    return f"{'-' if value is None else format(value * factor, form):>{width}}"
