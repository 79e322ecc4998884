"""The figure and the table of the experiment with unequal devices."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from sparsepipe.experiments.unequal_grid import LOSS, OPTIONS, WINDOW, Point, Trained, smoothed
from systems.figures.draw import Agreement, Bars, Lines, Panel, draw
from systems.figures.experiment import Figure
from systems.figures.shaped import AGREE, marked
from systems.figures.text import table


def drawn(trained: Trained, folder: Path) -> Figure:
    """Draw throughput, predictions, and the loss over time where it was trained for."""
    schemes = list(dict.fromkeys(point.scheme for point in trained.points))
    panels: list[Panel] = [_throughput(trained, schemes), _agreement(trained, schemes)]
    learned = [point for point in trained.points if point.learned]
    if learned:
        panels.append(_losses(learned))
    return draw(
        folder / "pipeline-unequal",
        panels,
        "ranks behind shaped links, each held to its share of a core; the plan is made from layers "
        "that were timed on these ranks; dots: one seed each",
        title="Unequal devices, trained for real",
        tier="shaped",
        caption="A narrow MinkVGG16-BN learns generated shapes on clusters in this machine whose "
        "ranks have unequal shares of its cores: throughput of the plan and of what one does "
        "without a planner, and measured over predicted step time.",
    )


def _throughput(trained: Trained, schemes: Sequence[str]) -> Bars:
    """Draw the samples per second of each scheme, cluster by cluster."""
    return Bars(
        groups=[f"{box}\n{rate:g} Gb/s" for box, rate in trained.rows],
        series={
            scheme: [
                [run["samples_per_s"] for run in row[scheme].runs] if scheme in row else []
                for row in trained.rows.values()
            ]
            for scheme in schemes
        },
        unit="samples per second",
        title="Throughput by shares of a core (shaped)",
        value_format="{:.0f}",
    )


def _agreement(trained: Trained, schemes: Sequence[str]) -> Agreement:
    """Draw measured over predicted step times."""
    series = {}
    for scheme in schemes:
        points = [point for point in trained.points if point.scheme == scheme]
        predicted_ms = [point.predicted_s * 1e3 for point in points]
        series[scheme] = predicted_ms, [median(point.steps_s) * 1e3 for point in points]
    return Agreement(
        series=series,
        x="predicted step time",
        y="measured",
        unit="ms",
        title="Measured over predicted step (shaped)",
        band=AGREE,
    )


def _losses(learned: Sequence[Point]) -> Lines:
    """Draw the loss over time, of the first seed."""
    series = {}
    for point in learned:
        run = point.runs[0]
        pace_s, losses = OPTIONS.batch_size / run["samples_per_s"], smoothed(run)
        series[point.scheme] = [step * pace_s for step, _ in enumerate(losses, WINDOW)], losses
    return Lines(
        series=series,
        x_label="seconds of training",
        y_label=f"training loss, mean of {WINDOW} steps",
        title=f"Loss over time, {learned[0].box} at {learned[0].rate:g} Gb/s (shaped)",
        reference=LOSS,
    )


def notes(trained: Trained) -> tuple[str, ...]:
    """A table of all points, and how many runs are doubtful."""
    rows = []
    for point in trained.points:
        low, high = min(point.steps_s) * 1e3, max(point.steps_s) * 1e3
        middle, predicted_ms = median(point.steps_s) * 1e3, point.predicted_s * 1e3
        seconds = point.seconds_to_loss()
        busy = [mean(of) for of in zip(*(run["utilisation"] for run in point.runs), strict=True)]
        rows.append(
            (
                point.place,
                point.scheme,
                f"{middle:.0f} [{low:.0f}, {high:.0f}]",
                f"{predicted_ms:.0f}",
                f"{middle / predicted_ms:.2f}",
                " ".join(f"{part:.0%}" for part in busy),
                f"{median(seconds):.0f}" if seconds else "",
                len(point.runs),
            )
        )
    columns = ("shares, links", "scheme", "step ms [least, most]", "predicted ms", "ratio")
    return (
        table(
            (*columns, "busy, by rank", "seconds to loss", "n"),
            rows,
            "Steps on clusters with unequal shares of a core (shaped):",
        ),
        marked([run for point in trained.points for run in point.runs]),
    )
