"""The figures and the table of the digits experiment."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from systems.figures.draw import Bars, Lines, draw
from systems.figures.experiment import Figure, Results
from systems.figures.text import table

SMALLEST_DRAWN = 1e-9
"""Smaller differences of the loss are drawn at this one, as the axis is logarithmic."""


def busiest(run: Mapping[str, Any], kind: str) -> float | None:
    """Return the bytes per step of the busiest rank in one direction.

    `kind` is "table" for those of the traffic table, or "tcp" for those that the kernel counted,
    which are None where it does not count.
    """
    values = [row[f"{kind}_{way}"] for row in run["bytes_per_step"] for way in ("sent", "received")]
    return None if None in values else max(values)


def relative_gaps(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return |a - b| / |b|, value by value."""
    return [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]


def losses(results: Results, folder: Path) -> Figure:
    """Draw the training loss of every scheme, and its difference from one process's."""
    curves = {name: runs[0]["loss"] for name, runs in results.items()}
    alone = curves["single"]
    smooth = {name: (range(len(loss)), _smooth(loss)) for name, loss in curves.items()}
    shortest = min(map(len, curves.values()))
    gaps = {
        name: (range(shortest), _drawn_gaps(loss[:shortest], alone[:shortest]))
        for name, loss in curves.items()
        if name != "single"
    }
    panels = [
        Lines(series=series, x_label="step", y_label=label, title=title, logarithmic=True)
        for series, label, title in (
            (
                smooth,
                "training loss (mean of 10 steps)",
                "Digits, global batch 96, seed 0 (measured)",
            ),
            (
                gaps,
                "relative difference of the loss",
                "Against one process on the whole batch (measured)",
            ),
        )
    ]
    return draw(
        folder / "digits-loss",
        panels,
        "same data order, same seed, same learning rate for every scheme; differences below 1e-9 "
        "are drawn at 1e-9",
        title="Loss curves",
        tier="measured",
        caption="All schemes compute the same synchronous SGD steps: left, the curves lie over "
        "each other; right, they start apart by float32 rounding, which training then amplifies, "
        "with some seeds by orders of magnitude.",
    )


def _drawn_gaps(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return relative gaps that a logarithmic axis can show."""
    return [max(gap, SMALLEST_DRAWN) for gap in relative_gaps(ours, theirs)]


def _smooth(values: Sequence[float], width: int = 10) -> list[float]:
    """Average every value with the `width` - 1 values before it, as far as there are any."""
    windows = (values[max(0, i - width + 1) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def bytes_per_step(results: Results, folder: Path) -> Figure:
    """Draw the bytes of the busiest rank: the traffic table's, and those the kernel counted."""
    names = [name for name in results if name != "single"]
    by_table = [[(busiest(results[name][0], "table") or 0.0) / 1e6] for name in names]
    counted = [[(busiest(run, "tcp") or 0.0) / 1e6 for run in results[name]] for name in names]
    bars = Bars(
        groups=names,
        series={"traffic table": by_table, "counted by the kernel (TCP)": counted},
        unit="MB per step, busiest rank, one direction",
        title="Bytes on the wire, digits, 4 ranks (measured)",
        value_format="{:.2f}",
    )
    return draw(
        folder / "digits-bytes",
        [bars],
        "table: the paper's, from parameter and activation sizes; count: TCP_INFO of every rank's "
        "sockets over the measured window",
        title="Bytes per step",
        tier="measured",
        caption="The network traffic that layer separation saves, counted where it happens. "
        "1 MB = 10^6 bytes.",
    )


def summary(results: Results) -> str:
    """Write a table of the accuracy of every scheme, in Markdown."""
    rows = [
        (name, f"{median(r['test_accuracy'] for r in runs):.2%}", len(runs))
        for name, runs in results.items()
    ]
    return table(("scheme", "test accuracy", "n"), rows)
