"""Draws acceptance and total variation over the sigmoid's limits, other methods beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from systems.figures.draw import Curve, Lines, draw
from systems.figures.experiment import Figure, Results
from systems.figures.text import table

QUANTITIES = {
    "acceptance": "probability that a draft token is accepted",
    "total_variation": "total variation from the target",
}


def distances(results: Results, folder: Path) -> Figure:
    """Draw figure (d)."""
    panels = [
        Lines(
            series=_curves(rows, quantity),
            x_label="beta of the sigmoid, alpha = -beta",
            legend_below=True,
            y_label=label,
            title=f"{name} (measured)",
            logarithmic_x=True,
            from_zero=True,
        )
        for name, rows in results.items()
        for quantity, label in QUANTITIES.items()
    ]
    counts = ", ".join(
        f"{name}: {rows[0]['positions']} positions" for name, rows in results.items()
    )
    return draw(
        folder / "approximation-distance",
        panels,
        f"closed form in float64, means over positions ({counts}); calibrated on others",
        title="(d) Acceptance, and distance from the target's distribution",
        tier="measured",
        caption="Of the token that a draft position gives. Exact and calibrated do not depend on "
        "beta. The sigmoid accepts what the draft says, hence its distance.",
    )


def summary(results: Results) -> str:
    """All rows, in Markdown."""
    columns = "logits, method, beta or caution, acceptance, total variation, after all accepted"
    return table(
        columns.split(", "),
        [
            (
                name,
                row["method"],
                "" if row["setting"] is None else f"{row['setting']:g}",
                f"{row['acceptance']:.3f}",
                f"{row['total_variation']:.4f}",
                f"{row['bonus_total_variation']:.4f}",
            )
            for name, rows in results.items()
            for row in rows
        ],
    )


def _curves(rows: Sequence[Mapping[str, Any]], quantity: str) -> dict[str, Curve]:
    """A quantity over the sigmoid's beta; methods without one are horizontal lines."""
    sigmoid = [row for row in rows if row["method"] == "sigmoid"]
    limits = [row["setting"] for row in sigmoid]
    curves: dict[str, Curve] = {"sigmoid": (limits, [row[quantity] for row in sigmoid])}
    for row in rows:
        if row["method"] != "sigmoid":
            setting = row["setting"]
            name = row["method"] if setting is None else f"{row['method']}, caution {setting:g}"
            curves[name] = (limits, [row[quantity]] * len(limits))
    return curves
