"""Draws loss curves of training."""

from collections.abc import Sequence
from pathlib import Path

from systems.figures.draw import Lines, draw
from systems.figures.experiment import Figure, Results

WINDOW = 20
"""A point of a curve is the mean of so many steps."""


def curves(
    results: Results,
    folder: Path,
    *,
    name: str = "sparse-training",
    title: str = "Training on point clouds",
    caption: str = "One process; time is steps x the median step.",
) -> Figure:
    """Draw the loss of every way of training, by step and by time."""
    by_step = {way: _by_step(runs[0]["loss"]) for way, runs in results.items()}
    by_time = {
        way: ([x * runs[0]["step_s"]["median"] for x in by_step[way][0]], by_step[way][1])
        for way, runs in results.items()
    }
    accuracies = ", ".join(f"{way} {runs[0]['test_accuracy']:.1%}" for way, runs in results.items())
    panels = [
        Lines(
            series=series,
            x_label=label,
            y_label=f"training loss, mean of {WINDOW} steps",
            title=f"MinkVGG16-BN by {label.partition(',')[0]} (measured)",
        )
        for series, label in ((by_step, "step"), (by_time, "time, s"))
    ]
    note = f"test accuracy: {accuracies}"
    return draw(folder / name, panels, note, title=title, tier="measured", caption=caption)


def _by_step(loss: Sequence[float]) -> tuple[list[float], list[float]]:
    """The mean loss of every window of steps, over the step that ends the window."""
    ends = range(WINDOW, len(loss) + 1, WINDOW)
    return [float(end) for end in ends], [sum(loss[end - WINDOW : end]) / WINDOW for end in ends]
