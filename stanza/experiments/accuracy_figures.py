"""The figure and the tables of the time-to-accuracy experiment."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median

from stanza.experiments import box
from stanza.experiments.accuracy_curves import Point, Trained
from systems.figures.draw import Bars, Panel, draw
from systems.figures.experiment import Figure
from systems.figures.progress import Progress
from systems.figures.shaped import marked
from systems.figures.text import table

LEAST_DRAWN = 0.7
"""Where the axis of accuracies begins."""


def drawn(trained: Trained, data: str, folder: Path) -> tuple[Figure, ...]:
    """Draw accuracy over time, a panel for every setting, a figure for every number of ranks."""
    sizes = sorted({ranks for _, ranks in trained.points})
    return tuple(_figure(trained, ranks, data, folder) for ranks in sizes)


def _figure(trained: Trained, ranks: int, data: str, folder: Path) -> Figure:
    """Draw the settings on so many ranks. The figure of the fewest is called after the experiment
    alone."""
    rows = {name: row for (name, of), row in trained.points.items() if of == ranks}
    first = ranks == min(of for _, of in trained.points)
    panels: list[Panel] = [
        _progress(trained, name, row)
        for name, row in rows.items()
        if any(point.learned for point in row.values())
    ]
    panels.append(_steps(trained, rows))
    return draw(
        folder / ("time-to-accuracy" if first else f"time-to-accuracy-{ranks}"),
        panels,
        f"{ranks} ranks behind shaped links, each held to {box.core_share(ranks):g} of a core; the "
        "time of tests is left out; continued: all schemes take the same steps, so the accuracy is "
        "that of a run to the end, at this scheme's measured step time; predicted: at the step "
        "time of the plan",
        title=f"Time to accuracy, {ranks} ranks",
        tier="shaped",
        caption=f"Test accuracy on {data} over the seconds of training, seed 0, on a cluster in "
        "this machine whose links give each network the ratio of computing to communicating of "
        "its model on the paper's V100 nodes at 10 Gb/s. Real layers, gradients and TCP; the "
        f"line marks {trained.target:.0%}. Bars: what a step takes, every seed a dot.",
    )


def _progress(trained: Trained, name: str, row: Mapping[str, Point]) -> Progress:
    """Make the panel of accuracy over time, of every scheme in one setting."""
    ranks = next(iter(row.values())).ranks
    return Progress(
        measured={s: point.curve() for s, point in row.items() if point.ends},
        continued={s: point.curve() for s, point in row.items() if not point.ends},
        predicted={
            s: point.predicted_curve() for s, point in row.items() if point.predicted_step_s
        },
        order=trained.schemes,
        x_label="seconds of training",
        y_label="test accuracy",
        title=f"{name}, {ranks} ranks at {_rate(row)} (shaped)",
        target=trained.target,
        least=LEAST_DRAWN,
    )


def _steps(trained: Trained, rows: Mapping[str, Mapping[str, Point]]) -> Bars:
    """Make the panel of mean step times, setting by setting."""
    return Bars(
        groups=[f"{name}\n{_rate(row)}" for name, row in rows.items()],
        series={
            scheme: [
                [seconds * 1e3 for seconds in row[scheme].steps_s] if scheme in row else []
                for row in rows.values()
            ]
            for scheme in trained.schemes
        },
        unit="ms per step",
        title="What a step takes (shaped)",
        logarithmic=True,
        value_format="{:.0f}",
    )


def _rate(row: Mapping[str, Point]) -> str:
    """The rate of a setting's links, in words."""
    return f"{next(iter(row.values())).rate_bits_per_s / 1e6:.0f} Mb/s"


def notes(trained: Trained, data: str) -> tuple[str, ...]:
    """Write how the links' rates came about, and a table of all points."""
    derived = [
        box.found(point.setting.model, point.setting.network, point.balance, point.rate_bits_per_s)
        for (_, _), row in trained.points.items()
        for point in [next(iter(row.values()))]
        if point.balance is not None
    ]
    return (
        f"The networks learn {data}. " + " ".join(derived),
        _table(trained),
        marked([run for point in trained.all_points() for run in point.runs]),
    )


def _curve(point: Point) -> str:
    """Say how the accuracy of a point over time is known."""
    if point.ends:
        return "measured" if len(point.ends) == len(point.runs) else "measured with one seed"
    return "continued" if point.learned else "none"


def _table(trained: Trained) -> str:
    """Write a table of step times, their predictions and the time to the target, in Markdown."""
    rows = []
    for point in trained.all_points():
        seconds = point.seconds_to(trained.target)
        low, high = min(point.steps_s) * 1e3, max(point.steps_s) * 1e3
        predicted_s = point.predicted_step_s
        rows.append(
            (
                point.name,
                point.scheme,
                f"{median(point.steps_s) * 1e3:.1f} [{low:.1f}, {high:.1f}]",
                "n/a" if predicted_s is None else f"{predicted_s * 1e3:.1f}",
                f"{median(seconds):.0f}" if seconds else "not reached",
                _curve(point),
                len(point.runs),
            )
        )
    return table(
        (
            "setting, ranks",
            "scheme",
            "step ms [least, most]",
            "predicted ms",
            f"seconds to {trained.target:.0%}",
            "curve",
            "n",
        ),
        rows,
        "Mean step times by scheme, and the time to the target accuracy:",
    )
