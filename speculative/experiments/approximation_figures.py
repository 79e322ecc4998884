"""Draws acceptance and total variation over the sigmoid's limits, other methods beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from systems.figures.draw import Lines, draw
from systems.figures.experiment import Figure, Results

Row = Mapping[str, Any]
Curve = tuple[Sequence[float], Sequence[float]]
QUANTITIES = {
    "acceptance": "probability that a draft token is accepted",
    "total_variation": "total variation from the target",
}


def distances(results: Results, folder: Path) -> Figure:
    """Figure (d)."""
    panels = [
        Lines(
            series=_curves(rows, quantity),
            x_label="beta of the sigmoid, alpha = -beta",
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
    note = f"closed form in float64, means over positions ({counts}); calibrated on others"
    return Figure(
        path=draw(folder / "approximation-distance", panels, note),
        title="(d) Acceptance, and distance from the target's distribution",
        tier="measured",
        caption="Of the token that a draft position gives. Exact and calibrated do not depend on "
        "beta. The sigmoid accepts what the draft says, hence its distance.",
    )


def table(results: Results) -> str:
    """All rows, in Markdown."""
    lines = [
        "| logits | method | beta or caution | acceptance | total variation | after all accepted |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, rows in results.items():
        for row in rows:
            setting = "" if row["setting"] is None else f"{row['setting']:g}"
            lines.append(
                f"| {name} | {row['method']} | {setting} | {row['acceptance']:.3f} "
                f"| {row['total_variation']:.4f} | {row['bonus_total_variation']:.4f} |"
            )
    return "\n".join(lines)


def _curves(rows: Sequence[Row], quantity: str) -> dict[str, Curve]:
    sigmoid = [row for row in rows if row["method"] == "sigmoid"]
    limits = [row["setting"] for row in sigmoid]
    curves: dict[str, Curve] = {"sigmoid": (limits, [row[quantity] for row in sigmoid])}
    for row in rows:
        if row["method"] != "sigmoid":
            setting = row["setting"]
            name = row["method"] if setting is None else f"{row['method']}, caution {setting:g}"
            curves[name] = (limits, [row[quantity]] * len(limits))
    return curves
