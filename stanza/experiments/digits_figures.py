"""The figures and the table of the digits experiment."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from systems.figures.draw import Bars, Lines, draw
from systems.figures.experiment import Figure, Results

SHARED = "4 ranks on one machine share its cores and talk over loopback"


def busiest(run: Mapping[str, Any], kind: str) -> float | None:
    """Bytes per step of the busiest rank in one direction: the "table"'s, or "tcp" as counted."""
    values = [row[f"{kind}_{way}"] for row in run["bytes_per_step"] for way in ("sent", "received")]
    return None if None in values else max(values)


def relative_gaps(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """|a - b| / |b|, value by value."""
    return [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]


def throughput(values: Mapping[str, Sequence[float]], folder: Path) -> Figure:
    """Samples per second of every scheme, every repetition shown."""
    path = draw(
        folder / "digits-throughput",
        [
            Bars(
                groups=list(values),
                series={"throughput": list(values.values())},
                unit="samples/s",
                title="Digits, global batch 96, 4 ranks (measured)",
                value_format="{:,.0f}",
            )
        ],
        f"bars: median over repetitions, dots: each; cases alternate; {SHARED}",
    )
    return Figure(
        path=path,
        title="Throughput on digits",
        tier="measured",
        caption=f"Samples per second in the measured window. {SHARED}: this is no cluster, the "
        "network costs next to nothing and the ranks' arithmetic competes for the same cores.",
    )


def losses(results: Results, folder: Path) -> Figure:
    """Training loss of every scheme, and its difference to one process's."""
    curves = {name: runs[0]["loss"] for name, runs in results.items()}
    alone = curves["single"]
    steps = range(len(alone))
    panels = [
        Lines(
            series={name: (list(steps), _smooth(losses)) for name, losses in curves.items()},
            x_label="step",
            y_label="training loss (mean of 10 steps)",
            title="Digits, global batch 96, seed 0 (measured)",
            logarithmic=True,
        ),
        Lines(
            series={
                name: (list(range(60)), [max(g, 1e-9) for g in relative_gaps(c[:60], alone[:60])])
                for name, c in curves.items()
                if name != "single"
            },
            x_label="step",
            y_label="relative difference of the loss",
            title="Against one process on the whole batch (measured)",
            logarithmic=True,
        ),
    ]
    path = draw(
        folder / "digits-loss",
        panels,
        "same data order, same seed, same learning rate for every scheme; differences below 1e-9 "
        "are drawn at 1e-9",
    )
    return Figure(
        path=path,
        title="Loss curves",
        tier="measured",
        caption="All schemes compute the same synchronous SGD steps: left, the curves lie over "
        "each other; right, they start apart by float32 rounding, which training then amplifies, "
        "with some seeds by orders of magnitude.",
    )


def _smooth(values: Sequence[float], width: int = 10) -> list[float]:
    windows = (values[max(0, i - width + 1) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def bytes_per_step(results: Results, folder: Path) -> Figure:
    """Bytes of the busiest rank: the traffic table's, and those that the kernel counted."""
    names = [name for name in results if name != "single"]
    table = [[(busiest(results[name][0], "table") or 0.0) / 1e6] for name in names]
    counted = [[(busiest(run, "tcp") or 0.0) / 1e6 for run in results[name]] for name in names]
    path = draw(
        folder / "digits-bytes",
        [
            Bars(
                groups=names,
                series={"traffic table": table, "counted by the kernel (TCP)": counted},
                unit="MB per step, busiest rank, one direction",
                title="Bytes on the wire, digits, 4 ranks (measured)",
                value_format="{:.2f}",
            )
        ],
        "table: the paper's, from parameter and activation sizes; count: TCP_INFO of every rank's "
        "sockets over the measured window",
    )
    return Figure(
        path=path,
        title="Bytes per step",
        tier="measured",
        caption="The network traffic that layer separation saves, counted where it happens. "
        "1 MB = 10^6 bytes.",
    )


def table(results: Results) -> str:
    """Throughput, step time, prediction and accuracy of every scheme, in Markdown."""
    lines = [
        "| scheme | samples/s | step ms, median | predicted ms | test accuracy | n |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in results.items():
        predicted = runs[0]["predicted_step_s"]
        lines.append(
            f"| {name} | {median(r['samples_per_s'] for r in runs):,.0f} "
            f"| {median(r['step_s']['median'] for r in runs) * 1e3:.2f} "
            f"| {'n/a' if predicted is None else f'{predicted * 1e3:.2f}'} "
            f"| {median(r['test_accuracy'] for r in runs):.2%} | {len(runs)} |"
        )
    return "\n".join(lines)


def orders(results: Results) -> str:
    """Schemes from fast to slow, as predicted and as measured."""
    planned = {n: runs for n, runs in results.items() if runs[0]["predicted_step_s"]}

    def order(seconds: Mapping[str, float]) -> str:
        return ", ".join(sorted(seconds, key=lambda name: seconds[name]))

    predicted = order({n: runs[0]["predicted_step_s"] for n, runs in planned.items()})
    measured = order({n: median(r["step_s"]["median"] for r in v) for n, v in planned.items()})
    return (
        f"From fast to slow, predicted: {predicted}. Measured: {measured}. The planner knows "
        "nodes of their own; where ranks share cores, moving bytes costs compute, which it does "
        "not model, and its order here is not to be relied on."
    )
