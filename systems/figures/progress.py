"""A panel of what rises over time: curves that were measured, continued, and predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes

Curve = tuple[Sequence[float], Sequence[float]]
"""The x and the y of a curve's points."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Curves y over x, where x is a time on a logarithmic axis."""

    measured: Mapping[str, Curve]
    """Drawn as lines."""
    continued: Mapping[str, Curve] = field(default_factory=dict)
    """Whose pace alone was measured: drawn dashed."""
    predicted: Mapping[str, Curve] = field(default_factory=dict)
    """Drawn dotted, in the colour of the series with the same name."""
    order: Sequence[str]
    """The names of all series that a figure may have: a name has one colour in all its panels."""
    x_label: str
    y_label: str
    title: str
    target: float
    """A horizontal line."""
    least: float
    """Where the y axis begins."""


def draw_progress(axis: Axes, panel: Progress, colours: Mapping[str, str]) -> list[list[Any]]:
    """Draw the curves, each in the colour of its name; returns the rows of the CSV."""
    names = [name for name in panel.order if name in (*panel.measured, *panel.continued)]
    rows: list[list[Any]] = []
    kinds = (
        ("predicted", panel.predicted, {"linestyle": ":", "linewidth": 1.2}),
        ("continued", panel.continued, {"linestyle": "--", "linewidth": 1.6}),
        ("measured", panel.measured, {"linestyle": "-", "linewidth": 2.4, "marker": "."}),
    )
    for kind, curves, style in kinds:
        for name, (x, y) in curves.items():
            axis.plot(x, y, color=colours[name], **style)  # type: ignore[arg-type]
            label, points = f"{name}, {kind}", zip(x, y, strict=True)
            rows += [[panel.title, label, a, b, panel.y_label] for a, b in points]
    axis.axhline(panel.target, color="#555555", linewidth=0.8, linestyle="-.")
    for name in names:
        axis.plot([], [], color=colours[name], linewidth=2.4, label=name)
    for kind, curves, style in reversed(kinds):
        if curves:
            axis.plot([], [], color="#555555", label=kind, **style)  # type: ignore[arg-type]
    axis.set_xscale("log")
    axis.set_ylim(panel.least, None)
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    axis.legend(fontsize=7, edgecolor="none", framealpha=0.85, loc="lower right")
    return rows
