"""Draws loss curves of training."""

from collections.abc import Sequence
from pathlib import Path

from systems.experiment import Figure, Results
from systems.figure import Lines, draw

WINDOW = 20
"""Steps that a point of a curve is the mean of."""


def curves(results: Results, folder: Path) -> Figure:
    """Loss by step and by time."""
    by_step = {name: _by_step(runs[0]["loss"]) for name, runs in results.items()}
    by_time = {
        name: ([x * runs[0]["step_s"]["median"] for x in by_step[name][0]], by_step[name][1])
        for name, runs in results.items()
    }
    accuracies = ", ".join(
        f"{name} {runs[0]['test_accuracy']:.1%}" for name, runs in results.items()
    )
    panels = [
        Lines(
            series=series,
            x_label=label,
            y_label=f"training loss, mean of {WINDOW} steps",
            title=f"MinkVGG16-BN by {label.partition(',')[0]} (measured)",
        )
        for series, label in ((by_step, "step"), (by_time, "time, s"))
    ]
    return Figure(
        path=draw(folder / "sparse-training", panels, f"test accuracy: {accuracies}"),
        title="Training on point clouds",
        tier="measured",
        caption="One process; time is steps x the median step.",
    )


def _by_step(loss: Sequence[float]) -> tuple[list[float], list[float]]:
    ends = range(WINDOW, len(loss) + 1, WINDOW)
    return [float(end) for end in ends], [sum(loss[end - WINDOW : end]) / WINDOW for end in ends]
