"""Draws "sparse against dense"."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sparsepipe.bench.contest import Row
from systems.figures.draw import Curve, Lines, draw
from systems.figures.experiment import Figure
from systems.figures.text import machine


def sparse_against_dense(rows: Sequence[Row], folder: Path) -> Figure:
    """Draw time and peak memory over the resolution, for every number of channels, one thread."""
    alone = [row for row in rows if row.wall_s and _in_sweep(row)]
    panels = [
        Lines(
            series=_curves([row for row in alone if row.contest.channels == width], value),
            x_label="voxels along a side",
            y_label=label,
            title=f"{width} channels, 1 thread (measured)",
            logarithmic=True,
            logarithmic_x=True,
        )
        for width in sorted({row.contest.channels for row in alone})
        for label, value in (
            ("forward and backward, ms", lambda row: row.seconds * 1e3),
            ("peak memory, MB", lambda row: row.peak_bytes / 1e6),
        )
    ]
    return draw(
        folder / "sparse-against-dense",
        panels,
        f"3x3x3 convolution on the surface of a sphere that fills the cube; medians; {machine()}",
        title="Sparse against dense",
        tier="measured",
        caption="One convolution of equal channels, the kernel map made before. Dense volumes "
        "whose pass would take minutes are left out.",
    )


def _in_sweep(row: Row) -> bool:
    """Whether the work is one sphere, on one thread, with unlimited memory."""
    contest = row.contest
    single = contest.cloud.startswith("sphere") and "x" not in contest.cloud
    return single and contest.threads == 1 and contest.memory_limit_bytes is None


def _curves(rows: Sequence[Row], value: Callable[[Row], float]) -> dict[str, Curve]:
    """A value of every engine's rows over the side of the sphere's cube."""
    curves: dict[str, Curve] = {}
    for engine in dict.fromkeys(row.engine for row in rows):
        by_side = {
            int(row.contest.cloud.removeprefix("sphere:")): row
            for row in rows
            if row.engine == engine
        }
        curves[engine] = (sorted(by_side), [value(by_side[side]) for side in sorted(by_side)])
    return curves
