"""The table of contests: every number with how it was obtained, as CSV and in Markdown."""

from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from sparsepipe.bench.contest import OURS, Row, ratios
from sparsepipe.bench.engines import ENGINES
from sparsepipe.bench.published import PUBLISHED, Speed
from systems import disk
from systems.figures.text import table
from systems.measure import spread

COLUMNS = (
    "tier",
    "device",
    "threads",
    "cloud",
    "voxels",
    "pairs",
    "work",
    "part",
    "engine",
    "version",
    "n",
    "median_ms",
    "low_quartile_ms",
    "high_quartile_ms",
    "processor_ms",
    "load",
    "times",
    "times_low_quartile",
    "times_high_quartile",
    "times_processor",
    "over",
    "of_gemm",
    "peak_mb",
    "note",
    "source",
)
"""The columns of the CSV. `times` says how many times longer `engine` takes than `over`, round by
round, and `times_processor` the same of the time in which they were given a core; `of_gemm` is the
rate of a layer over that of a matrix product, by the contest's `clock`."""
SHORT = (
    "cloud, voxels, work, part, engine, n, median ms, quartiles, processor ms, over ours, "
    "processor, of GEMM, MB"
)
"""The columns in Markdown."""


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the table of what was measured and what others have published, as CSV."""
    records = [*_measured(rows), *_published()]
    lines = [[record.get(column, "") for column in COLUMNS] for record in records]
    disk.write_table(path, [COLUMNS, *lines])


def markdown(rows: Sequence[Row]) -> str:
    """What was measured, in Markdown; the engines that were left out follow, with the reason."""
    shown = [row for row in rows if row.wall_s]
    cells = table(SHORT.split(", "), [line(row, _beside(row, rows)) for row in shown])
    reasons = [f"- {engine}: {reason}" for engine, reason in sorted(left_out(rows))]
    return "\n".join([cells, *(["", "Left out:", "", *reasons] if reasons else [])])


def left_out(rows: Sequence[Row]) -> set[tuple[str, str]]:
    """The engines that have no times, and why."""
    return {(row.engine, row.failure) for row in rows if row.failure is not None}


def published() -> str:
    """What others have published, in Markdown."""
    columns = ("engine", "published", "of what", "hardware", "source")
    lines = [(one.engine, one.told, one.what, one.hardware, one.source) for one in PUBLISHED]
    return table(columns, lines)


def line(row: Row, contest: Sequence[Row]) -> tuple[str, ...]:
    """A row that has times as cells of `SHORT`; `contest` are all rows of its contest."""
    taken, processor = spread(row.wall_s), spread(row.processor_s)
    of_gemm = _of_gemm(row, contest)
    over = ratios(contest, row.engine, row.part)
    on_processor = ratios(contest, row.engine, row.part, clock="processor_s")
    if row.engine == OURS:
        over = on_processor = []
    return (
        row.contest.cloud,
        f"{row.voxels:,}",
        row.contest.work,
        row.part,
        row.engine,
        str(taken.n),
        f"{taken.median * 1e3:.4g}",
        f"{taken.low * 1e3:.4g} to {taken.high * 1e3:.4g}",
        f"{processor.median * 1e3:.4g}",
        *(f"{spread(found).median:.2f}" if found else "" for found in (over, on_processor)),
        "" if of_gemm is None else f"{of_gemm:.2f}",
        f"{row.peak_bytes / 1e6:.0f}",
    )


def _beside(row: Row, rows: Sequence[Row]) -> list[Row]:
    """The rows of the same contest."""
    return [other for other in rows if other.contest == row.contest]


def _of_gemm(row: Row, contest: Sequence[Row]) -> float | None:
    """The rate of a row over that of the matrix product that took turns with it, by the steadier
    clock."""
    found = ratios(contest, "gemm", row.part, over=row.engine, clock=row.contest.clock)
    return spread(found).median if found and row.engine != "gemm" else None


def _measured(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """A record for every row."""
    for row in rows:
        contest = row.contest
        record = {
            "tier": "measured",
            "device": contest.device,
            "threads": contest.threads,
            "cloud": contest.cloud,
            "voxels": row.voxels,
            "pairs": row.pairs,
            "work": contest.work,
            "part": row.part,
            "engine": row.engine,
            "version": version(row.engine),
            "load": f"{row.load:.2f}",
            "note": row.failure or "",
        }
        yield record | (_times(row, _beside(row, rows)) if row.wall_s else {})


def _times(row: Row, contest: Sequence[Row]) -> dict[str, Any]:
    """The columns of a row that has times."""
    taken, of_gemm = spread(row.wall_s), _of_gemm(row, contest)
    found: dict[str, Any] = {
        "n": taken.n,
        "median_ms": taken.median * 1e3,
        "low_quartile_ms": taken.low * 1e3,
        "high_quartile_ms": taken.high * 1e3,
        "processor_ms": spread(row.processor_s).median * 1e3,
        "of_gemm": "" if of_gemm is None else of_gemm,
        "peak_mb": row.peak_bytes / 1e6,
    }
    times = ratios(contest, row.engine, row.part)
    processor = ratios(contest, row.engine, row.part, clock="processor_s")
    if times:
        over = spread(times)
        found |= {
            "times": over.median,
            "times_low_quartile": over.low,
            "times_high_quartile": over.high,
            "times_processor": spread(processor).median,
            "over": OURS,
        }
    return found


def _published() -> Iterator[dict[str, Any]]:
    """A record for everything that others have published."""
    for one in PUBLISHED:
        record = {
            "tier": "published",
            "device": one.hardware,
            "work": one.what,
            "engine": one.engine,
            "source": one.source,
        }
        if isinstance(one, Speed):
            yield record | {"times": one.times, "over": one.over, "note": one.how}
        else:
            yield record | {"part": one.part, "median_ms": one.milliseconds}


def version(engine: str) -> str:
    """The version of the distribution that an engine comes in; empty where it is not installed."""
    try:
        return metadata.version(ENGINES[engine].package)
    except metadata.PackageNotFoundError:
        return ""
