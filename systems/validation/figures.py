"""Draws predicted over measured, for every plan, and claims what was found."""

from collections.abc import Callable, Sequence
from pathlib import Path

from systems.figures.draw import Agreement, Curve, draw
from systems.figures.experiment import Figure
from systems.validation.errors import WITHIN, Quantity, Row

GIGA = 1e9


def draw_rows(rows: Sequence[Row], folder: Path, source: str, name: str = "validation") -> Figure:
    """Draw seconds of iterations and reductions, and memory, into a folder.

    Args:
        source: who measured.
        name: of the files.
    """

    def panel(
        what: str, by: str, unit: str, scale: float, of: Callable[[Row], Quantity]
    ) -> Agreement:
        return Agreement(
            series=_curves(rows, of, scale),
            x=f"measured {what}",
            y=by,
            unit=unit,
            title=f"{what[0].upper()}{what[1:]}: {by} over measured (published)",
            band=WITHIN,
        )

    panels = [
        panel("iteration", "simulated", "s", 1.0, lambda row: row.simulator),
        panel("iteration", "closed form", "s", 1.0, lambda row: row.formula),
        panel("gradient reduction", "simulated", "s", 1.0, lambda row: row.reduction),
        panel("peak memory", "computed", "GB", GIGA, lambda row: row.memory),
    ]
    return draw(
        folder / name,
        [one for one in panels if one.series],
        f"simulated: from layer profiles and network rates alone; measured: {source}",
        title="Predictions against jobs that others measured",
        tier="simulated",
        caption="Every mark is a plan that another team measured on its cluster (published). The "
        "band is 10 % to both sides.",
    )


def _curves(rows: Sequence[Row], of: Callable[[Row], Quantity], scale: float) -> dict[str, Curve]:
    """Measured and predicted values of a quantity, by kind of plan."""
    curves: dict[str, Curve] = {}
    for kind in sorted({row.kind for row in rows}):
        quantities = [of(row) for row in rows if row.kind == kind]
        pairs = sorted(
            (one.measured / scale, one.predicted / scale)
            for one in quantities
            if one.measured is not None and one.predicted is not None
        )
        if pairs:
            curves[kind] = ([x for x, _ in pairs], [y for _, y in pairs])
    return curves
