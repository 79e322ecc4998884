"""The panels of figures: what each kind shows, and how it is drawn on the axes of matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from systems.figures.progress import Curve, Progress, draw_progress

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette: distinct for colour-blind readers."""
MARKERS = ("o", "s", "^", "D", "v", "P", "*")
FEW_BARS = 16
"""In a panel; the values of more stand upright, so that they do not overlap."""
LEGEND_COLUMNS, LEGEND_CHARACTERS = 4, 80  # at most, below a panel
CROWDED, MANY = 10, 16
"""So many groups of bars have no room for labels of the usual size, and for labels that lie."""
LINES_PER_CHARACTER = 0.4
"""The height of a label's character that stands upright, in lines of text."""
MANY_POWERS = 1000
"""An axis whose ends are further apart than this has no room for labels between powers of ten."""
FEW_POINTS = 12
"""Curves of so few points show each of them."""


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Grouped bars: every series has a list of repeated values for each of the groups."""

    groups: Sequence[str]
    series: Mapping[str, Sequence[Sequence[float]]]
    unit: str
    title: str
    paper_range: tuple[float, float] | None = None
    """Drawn as a hatched band labelled "paper"."""
    paper_format: str = "{}x"
    """The format of the ends of that range."""
    reference: float | None = None
    """A horizontal line, such as 1.0 for "as fast"."""
    logarithmic: bool = False
    value_format: str = "{:.3g}"
    published: Sequence[str] = ()
    """The series whose values others have published; they are hatched."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Curves y over x."""

    series: Mapping[str, Curve]
    x_label: str
    y_label: str
    title: str
    points: Mapping[str, Curve] = field(default_factory=dict)
    """More values of the same series, drawn as crosses in their colours: another tier's."""
    points_label: str = ""
    """What the crosses are, such as "emulated"."""
    spread: Mapping[str, Curve] = field(default_factory=dict)
    """The least and the largest value at every point of a series, drawn as error bars."""
    logarithmic: bool = False
    logarithmic_x: bool = False
    from_zero: bool = False
    """Whether the y axis begins at 0: differences are then seen for what they are."""
    reference: float | None = None
    """A horizontal line, such as 1.0 for "as fast"."""
    legend_below: bool = False
    """Whether the legend stands below the axis, where it covers no curve."""
    ticks_at_points: bool = False
    """Whether the x axis is marked at the x of points alone, where something was run."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two ways to know one quantity, x and y: their ratio over x, with a band around 1."""

    series: Mapping[str, Curve]
    x: str
    """What x is called, such as "simulated step time"."""
    y: str
    unit: str
    title: str
    band: float
    """Half the width of the band, as a fraction."""


Panel = Bars | Lines | Agreement | Progress


def draw_panel(axis: Axes, panel: Panel) -> list[list[Any]]:
    """Draw a panel; returns the rows of its CSV."""
    if isinstance(panel, Bars):
        return _bars(axis, panel)
    if isinstance(panel, Progress):
        rows = draw_progress(axis, panel, dict(zip(panel.order, COLOURS, strict=False)))
        _label_powers(axis.xaxis)
        return rows
    return _lines(axis, panel) if isinstance(panel, Lines) else _agreement(axis, panel)


def _agreement(axis: Axes, panel: Agreement) -> list[list[Any]]:
    """Draw the ratios y / x over x, with the band; returns the rows of the CSV."""
    axis.axhspan(1 - panel.band, 1 + panel.band, color="#eeeeee", label=f"within {panel.band:.0%}")
    axis.axhline(1.0, color="#555555", linewidth=0.8)
    rows: list[list[Any]] = []
    largest = 1.0
    for i, (name, (x, y)) in enumerate(panel.series.items()):
        marker, colour = MARKERS[i % len(MARKERS)], COLOURS[i % len(COLOURS)]
        ratios = [b / a for a, b in zip(x, y, strict=True)]
        largest = max([largest, *ratios])
        # Hollow and of several sizes: points that coincide stay visible.
        axis.plot(
            x, ratios, marker, color=colour, label=name, fillstyle="none", markersize=6 + 1.5 * i
        )
        rows += [[panel.title, name, a, b, panel.unit] for a, b in zip(x, y, strict=True)]
    axis.set_xscale("log")
    _label_powers(axis.xaxis)
    if largest > 2:  # else a few points far off would hide what the others do
        axis.set_yscale("log")
        _label_powers(axis.yaxis)
    axis.set_xlabel(f"{panel.x}, {panel.unit}")
    axis.set_ylabel(f"{panel.y} / {panel.x}")
    axis.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return rows


def _label_powers(axis: Axis) -> None:
    """Label 1, 2 and 5 of every power of ten on a logarithmic axis; of many powers, 1 alone."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1,) if high > MANY_POWERS * low else (1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _bars(axis: Axes, panel: Bars) -> list[list[Any]]:
    """Draw bars at the median and every single value as a dot; returns the rows of the CSV."""
    rows: list[list[Any]] = []
    width = 0.8 / len(panel.series)
    upright = len(panel.series) * len(panel.groups) > FEW_BARS
    if panel.paper_range is not None:
        low, high = (panel.paper_format.format(end) for end in panel.paper_range)
        band: dict[str, Any] = {"fill": False, "hatch": "//", "edgecolor": "#bbbbbb"}
        axis.axhspan(*panel.paper_range, **band, label=f"paper: {low} to {high}")
        rows += [[panel.title, "paper", "", value, panel.unit] for value in panel.paper_range]
    if panel.reference is not None:
        axis.axhline(panel.reference, color="#555555", linewidth=0.8, linestyle="--")
    for i, (name, groups) in enumerate(panel.series.items()):
        label: str | None = name
        for g, values in enumerate(groups):
            if values:
                x = g + (i - (len(panel.series) - 1) / 2) * width
                middle = median(values)
                axis.bar(x, middle, width * 0.92, **_look(panel, name, i), label=label)
                _annotate(axis, x, values, panel.value_format.format(middle), upright)
                label = None  # one entry of the legend for the whole series
            rows += [[panel.title, name, panel.groups[g], value, panel.unit] for value in values]
    lines = _name_groups(axis, panel.groups)
    axis.set_xlim(-0.5, len(panel.groups) - 0.5)  # a group without bars has its place too
    axis.set_ylabel(panel.unit)
    if panel.logarithmic:
        axis.set_yscale("log")
    axis.margins(y=0.2 if upright else 0.12)
    if len(panel.series) > 1 or panel.paper_range is not None:
        _legend_below(axis, lines)
    return rows


def _name_groups(axis: Axes, groups: Sequence[str]) -> int:
    """Write the names of the groups below the axis; returns how many lines of text they take."""
    size = 8 if len(groups) < CROWDED else 6.5
    upright = len(groups) >= MANY
    axis.set_xticks(range(len(groups)), list(groups), fontsize=size, rotation=90 if upright else 0)
    if upright:
        return ceil(LINES_PER_CHARACTER * max(map(len, groups)))
    return max(name.count("\n") for name in groups) + 1


def _look(panel: Bars, name: str, number: int) -> dict[str, Any]:
    """The colour of a series by its number; hollow and hatched where others have published it."""
    colour = COLOURS[number % len(COLOURS)]
    return (
        {"fill": False, "hatch": "//", "edgecolor": colour}
        if name in panel.published
        else {"color": colour}
    )


def _annotate(axis: Axes, x: float, values: Sequence[float], text: str, upright: bool) -> None:
    """Draw the repetitions of a bar as dots, and write its value beyond them, at the bar's end."""
    if len(values) > 1:
        axis.plot([x] * len(values), values, ".", color="black", markersize=3)
    upwards = max(values) >= 0
    axis.annotate(
        text,
        (x, max(values) if upwards else min(values)),
        ha="center",
        va="bottom" if upwards else "top",
        fontsize=7,
        rotation=90 if upright else 0,
        xytext=(0, 2 if upwards else -2),
        textcoords="offset points",
    )


def _legend_below(axis: Axes, lines: int) -> None:
    """Put the legend below the axis and its groups' names, which have so many lines."""
    labels = axis.get_legend_handles_labels()[1]
    axis.legend(
        fontsize=7,
        frameon=False,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.03 - 0.05 * lines),
        ncols=max(1, min(LEGEND_COLUMNS, LEGEND_CHARACTERS // max(map(len, labels)))),
    )


def _lines(axis: Axes, panel: Lines) -> list[list[Any]]:
    """Draw curves, and crosses over them; returns the rows of the CSV."""
    rows: list[list[Any]] = []
    styles = ("-", "--", "-.", ":")
    for i, (name, (x, y)) in enumerate(panel.series.items()):
        axis.plot(
            x,
            y,
            label=name,
            color=COLOURS[i % len(COLOURS)],
            linestyle=styles[i % len(styles)],
            linewidth=max(1.0, 3.0 - 0.4 * i),  # curves that coincide stay visible
            marker="*" if len(x) == 1 else "o" if len(x) <= FEW_POINTS else None,
            markersize=16 if len(x) == 1 else 5,
        )
        rows += [[panel.title, name, a, b, panel.y_label] for a, b in zip(x, y, strict=True)]
        rows += _error_bars(axis, panel, name, COLOURS[i % len(COLOURS)])
    rows += _points(axis, panel)
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    if panel.logarithmic:
        axis.set_yscale("log")
    if panel.logarithmic_x or panel.ticks_at_points:
        ticks = sorted({value for x, _ in panel.series.values() for value in x})
        axis.set_xscale("log" if panel.logarithmic_x else "linear")
        axis.set_xticks(ticks, [f"{value:g}" for value in ticks], fontsize=8)
        axis.minorticks_off()
    elif all(value == int(value) for x, _ in panel.series.values() for value in x):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if panel.reference is not None:
        axis.axhline(panel.reference, color="#555555", linewidth=0.8, linestyle="--")
    if panel.from_zero:
        axis.set_ylim(0, axis.get_ylim()[1] * 1.1)
    axis.legend(fontsize=7, edgecolor="none", framealpha=0.85)
    if panel.legend_below:
        _legend_below(axis, 2)
    return rows


def _error_bars(axis: Axes, panel: Lines, name: str, colour: str) -> list[list[Any]]:
    """Draw the least and the largest values of a series; returns the rows of the CSV."""
    if name not in panel.spread:
        return []
    (x, y), ends = panel.series[name], panel.spread[name]
    lengths = [[abs(end - value) for end, value in zip(side, y, strict=True)] for side in ends]
    axis.errorbar(x, y, yerr=lengths, fmt="none", ecolor=colour, capsize=3, linewidth=1)
    return [
        [panel.title, f"{name}, {end}", *point, panel.y_label]
        for end, side in zip(("least", "largest"), ends, strict=True)
        for point in zip(x, side, strict=True)
    ]


def _points(axis: Axes, panel: Lines) -> list[list[Any]]:
    """Draw crosses over the curves of the same names; returns the rows of the CSV."""
    rows: list[list[Any]] = []
    names = list(panel.series)
    for name, (x, y) in panel.points.items():
        colour = COLOURS[names.index(name) % len(COLOURS)]
        axis.plot(x, y, "x", color=colour, markersize=9, markeredgewidth=2)
        label = f"{name}, {panel.points_label}"
        rows += [[panel.title, label, a, b, panel.y_label] for a, b in zip(x, y, strict=True)]
    if rows:
        axis.plot([], [], "x", color="#555555", markersize=9, label=panel.points_label)
    return rows
