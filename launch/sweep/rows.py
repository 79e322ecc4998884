"""The table of a sweep: a row for every point, read from its record."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, get_args

import numpy as np

from launch import job as jobs
from launch.installed import system_of
from launch.records import read_emulation, read_job_and_plan, read_result, read_shaped
from launch.sweep.points import Point, Sweep
from launch.sweep.variables import BANDWIDTH, BATCH_SIZE, NODES, value_at
from systems import disk
from systems.figures.text import machine
from systems.job import Job
from systems.processes import failures
from systems.profiles.emulation import Emulation
from systems.runs import record
from systems.runs.record import Tier
from systems.schema import InputError

NOT_YET = "not run yet"
"""The reason of a point that was asked for and that has neither ended nor failed."""
OWN_COLUMNS = ("system", "scheme", "model", NODES, BANDWIDTH, BATCH_SIZE)
"""The variables that have a column in every table."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known of one point. None: not known here, or not run."""

    point: Point
    job: Job
    bandwidth_bits_per_s: float | None = None
    """The rate of the slowest link that was emulated or simulated."""
    batch_size: int | None = None
    """Samples in a step, over all ranks."""
    samples_per_s: float | None = None
    step_s: float | None = None
    """The median of the measured steps, each as long as its slowest rank took."""
    step_p90_s: float | None = None
    step_p99_s: float | None = None
    measured_steps: int | None = None
    """The number of measured steps."""
    predicted_step_s: float | None = None
    """What the planner says."""
    sent_bytes_per_s: float | None = None
    """The rate of the rank that sends most, over TCP, without headers."""
    received_bytes_per_s: float | None = None
    utilisation: float | None = None
    """Processor time over time and threads, the mean of the ranks."""
    peak_memory_bytes: int | None = None
    """The largest rank's."""
    scaling_efficiency: float | None = None
    """Samples per second of a rank, over those of a rank in the smallest world with the same values
    of everything else (the median of its repetitions)."""
    record: str = ""
    """The folder of the run."""
    machine: str = ""
    """What the ranks ran on, as rank 0 saw it; empty for a simulation."""
    error: str = ""
    """Why there are no figures; empty where there are."""

    @property
    def is_open(self) -> bool:
        """Whether the point was asked for, and has neither ended nor failed."""
        return self.error == NOT_YET

    def value(self, name: str) -> Any:
        """The value of a variable, whether this point names it or not."""
        if name == BANDWIDTH:
            return self.bandwidth_bits_per_s
        if name == BATCH_SIZE:
            return self.batch_size
        return self.point.values[name] if name in self.point.values else value_at(self.job, name)


def arranged(rows: Iterable[Row]) -> list[Row]:
    """The rows in the order of the table, with their scaling efficiency."""
    rows = list(rows)
    names = variables(row.point for row in rows)
    tiers = get_args(Tier)

    def place(row: Row) -> tuple[Any, ...]:
        values = [_place_of(row.value(name)) for name in names]
        return tiers.index(row.point.tier), *values, row.point.repetition

    return with_efficiency(sorted(rows, key=place), names)


def _place_of(value: Any) -> tuple[float, str]:
    """Return a key that sorts words by name, and numbers after them by size."""
    is_number = isinstance(value, (int, float))
    return (float(value), "") if is_number else (float("-inf"), str(value))


def variables(points: Iterable[Point]) -> list[str]:
    """Return the names of all that the points vary."""
    return list(dict.fromkeys(name for point in points for name in point.values))


def values_of(rows: Iterable[Row]) -> dict[str, list[Any]]:
    """Gather the values of everything that the rows' points vary, by its name."""
    rows = list(rows)
    names = variables(row.point for row in rows)
    return {name: list(dict.fromkeys(row.value(name) for row in rows)) for name in names}


def read_row(sweep: Sweep, point: Point) -> Row:
    """The row of a point: its figures if it has ended, else why there are none."""
    try:
        job = sweep.job(point)
    except InputError:  # which is why it has failed
        job = dataclasses.replace(sweep.base, world_size=point.values.get(NODES, 1) or 1)
    folder = sweep.record(point)
    row = Row(
        point=point,
        job=job,
        bandwidth_bits_per_s=point.values.get(BANDWIDTH),
        batch_size=point.values.get(BATCH_SIZE),
        record=str(folder) if (folder / "run.json").is_file() else "",
    )
    if not sweep.has_result(point):
        return dataclasses.replace(
            row, error=sweep.error(point) or failures.first(folder) or NOT_YET
        )
    ranks = jobs.load_job(folder / "job.toml").world_size
    if ranks != job.world_size:
        wrong = f"its record is of {ranks} ranks and not {job.world_size}; remove {folder}"
        return dataclasses.replace(row, error=wrong)
    return _with_figures(dataclasses.replace(row, error=""), folder)


def _with_figures(row: Row, folder: Path) -> Row:
    """The row with the figures of its record."""
    result, job = read_result(folder), row.job
    emulation = read_emulation(folder)
    usage = result.get("usage", [])
    dilate = emulation.dilate if emulation else 1.0
    times_s = [time_s / dilate for time_s in step_times_s(folder, result, job.world_size)]
    step: Any = result.get("step_s")
    step_s = step["median"] if isinstance(step, dict) else step
    percentiles: list[float | None] = [step_s, None, None]
    if times_s:
        percentiles = [float(np.percentile(times_s, p)) for p in (50, 90, 99)]
    return dataclasses.replace(
        row,
        bandwidth_bits_per_s=row.bandwidth_bits_per_s or _bandwidth(row.point.tier, folder),
        batch_size=result.get("samples_per_step") or system_of(job).batch_size(job),
        samples_per_s=result.get("samples_per_s"),
        step_s=percentiles[0],
        step_p90_s=percentiles[1],
        step_p99_s=percentiles[2],
        measured_steps=len(times_s) or None,
        predicted_step_s=result.get("predicted_step_s"),
        sent_bytes_per_s=_over_ranks(max, usage, "sent_bytes_per_s"),
        received_bytes_per_s=_over_ranks(max, usage, "received_bytes_per_s"),
        utilisation=_over_ranks(mean, usage, "utilisation"),
        peak_memory_bytes=_over_ranks(max, usage, "peak_memory_bytes"),
        machine="" if row.point.tier == "simulated" else _machine(folder),
    )


def _machine(folder: Path) -> str:
    """The machine of rank 0 of a run."""
    return machine(record.read_run(folder)["environment"])


def _bandwidth(tier: Tier, folder: Path) -> float | None:
    """The rate of the slowest link of the cluster that a record stands for; None where the links
    are this machine's own, or the cluster does not state it."""
    shaped = read_shaped(folder)
    if shaped is not None:
        return min(shaped.shape.rates_bits_per_s)
    job, plan = read_job_and_plan(folder)
    emulating = system_of(job).emulating
    if tier == "measured" or emulating is None:
        return None
    try:
        return min(emulating.link_rates(job, plan, Emulation()))
    except InputError:
        return None


def step_times_s(folder: Path, result: dict[str, Any], world_size: int) -> list[float]:
    """The seconds of every measured step of a run, on the rank that took longest in it."""
    step: Any = result.get("step_s")
    measured = step["n"] if isinstance(step, dict) else 0
    times: dict[int, float] = {}
    for rank in range(world_size):
        for step in record.read_steps(folder, rank):
            if "step_s" in step.metrics:
                times[step.index] = max(times.get(step.index, 0.0), step.metrics["step_s"])
    return [times[index] for index in sorted(times)][-measured:] if measured else []


def _over_ranks(function: Any, usage: Sequence[dict[str, Any]], name: str) -> Any:
    """A maximum or mean of one figure over the ranks that have it; None if no rank has it."""
    figures = [of_rank[name] for of_rank in usage if of_rank.get(name) is not None]
    return function(figures) if figures else None


def with_efficiency(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The rows with their scaling efficiency, where worlds of several sizes were asked for."""
    if NODES not in names:
        return list(rows)
    others = [name for name in names if name != NODES]
    worlds: dict[tuple[Any, ...], dict[int, list[float]]] = {}
    for row in rows:
        if row.samples_per_s:
            alike = worlds.setdefault(_key(row, others), {})
            alike.setdefault(row.job.world_size, []).append(row.samples_per_s)

    def efficiency(row: Row) -> float | None:
        if not row.samples_per_s:
            return None
        smallest, reached = min(worlds[_key(row, others)].items())
        return row.samples_per_s / row.job.world_size / (median(reached) / smallest)

    return [dataclasses.replace(row, scaling_efficiency=efficiency(row)) for row in rows]


def _key(row: Row, names: Sequence[str]) -> tuple[Any, ...]:
    """Return the tier and the values of some variables. Rows with equal keys belong together."""
    return (row.point.tier, *(row.value(name) for name in names))


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Write the table, whole or not at all. `record` and the figures are as in `Row`."""
    names = [n for n in variables(row.point for row in rows) if n not in OWN_COLUMNS]
    figures = [f.name for f in dataclasses.fields(Row)][4:]
    header = ["system", "model", "scheme", "tier", "nodes", "bandwidth_bits_per_s", "batch_size"]
    columns = [name.replace("-", "_") for name in names]
    table = [
        [
            row.job.system,
            *(getattr(row.job.options, name, "") for name in ("model", "scheme")),
            row.point.tier,
            row.job.world_size,
            row.bandwidth_bits_per_s,
            row.batch_size,
            *(row.value(name) for name in names),
            row.point.repetition,
            *(getattr(row, name) for name in figures),
        ]
        for row in rows
    ]
    disk.write_table(path, [[*header, *columns, "repetition", *figures], *table])
