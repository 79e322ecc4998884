"""The few kinds of plot that the testbed uses, in one style.

Every function writes PNG, PDF and the CSV of exactly what it drew. Published values are hollow or
hatched and labelled "paper"; the tier stands in every title.
"""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Canvas

from systems import disk
from systems.figures.experiment import Figure
from systems.figures.panels import (
    COLOURS as COLOURS,
    FEW_POINTS as FEW_POINTS,
    Agreement as Agreement,
    Bars as Bars,
    Lines as Lines,
    Panel as Panel,
    draw_panel,
)
from systems.figures.progress import Curve as Curve
from systems.runs.record import Tier

SIZE_INCHES = (8.0, 4.5)
FOOTNOTE_COLUMNS = 110
"""The number of characters that fit below one panel."""


def draw(
    path: Path,
    panels: Sequence[Panel],
    footnote: str,
    *,
    title: str,
    tier: Tier,
    caption: str,
    same_y: bool = False,
) -> Figure:
    """Draw panels, two in a row, into `path`.png, .pdf and .csv.

    Args:
        path: the files' common path, without a suffix.
        footnote: small print below the panels, such as the machine.
        title, tier, caption: of the figure in a report; every panel has a title of its own.
        same_y: whether all panels have one y range, so that they compare at a glance.
    """
    width, height = SIZE_INCHES
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    canvas = Canvas(
        figsize=(width * max(1.0, 0.75 * columns), height * max(1.0, 0.9 * lines)),
        layout="constrained",
    )
    axes = list(canvas.subplots(lines, columns, squeeze=False).flat)
    for unused in axes[len(panels) :]:
        unused.set_visible(False)
    rows: list[list[Any]] = []
    for axis, panel in zip(axes, panels, strict=False):
        rows += draw_panel(axis, panel)
        axis.set_title(panel.title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    if same_y:
        low, high = zip(*(axis.get_ylim() for axis in axes[: len(panels)]), strict=True)
        for axis in axes:
            axis.set_ylim(min(low), max(high))
    note = textwrap.fill(footnote, FOOTNOTE_COLUMNS * columns)
    canvas.supxlabel(note, fontsize=7, color="#555555")
    png = save(canvas, path, [["panel", "series", "x", "value", "unit"], *rows])
    return Figure(path=png, title=title, tier=tier, caption=caption)


def save(canvas: Canvas, path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    """Write a drawing and the rows of its CSV as `path`.png, .pdf and .csv; returns the PNG's
    path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    png = path.with_name(f"{path.name}.png")
    canvas.savefig(png, dpi=150)
    canvas.savefig(path.with_name(f"{path.name}.pdf"), metadata={"CreationDate": None})
    disk.write_table(path.with_name(f"{path.name}.csv"), rows)
    return png
