"""Draws "sparse against dense", and the table of all contests."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sparsepipe.bench.contest import Row
from systems.figures.draw import Curve, Lines, draw
from systems.figures.experiment import Figure
from systems.figures.text import machine, table


def sparse_against_dense(rows: Sequence[Row], folder: Path) -> Figure:
    """Draw time and peak memory over the resolution, for every number of channels, one thread."""
    alone = [row for row in rows if row.pass_s and _in_sweep(row)]
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


def summary(rows: Sequence[Row]) -> str:
    """Write the table of all contests, in Markdown."""
    columns = "cloud, voxels, channels, threads, engine, pass ms, map ms, peak MB, of GEMM"
    return table(
        columns.split(", "),
        [
            (
                row.contest.cloud,
                f"{row.voxels:,}",
                row.contest.channels or "MinkVGG16-BN",
                row.contest.threads,
                row.engine,
                *cells(row),
            )
            for row in rows
        ],
    )


def cells(row: Row) -> tuple[str, str, str, str]:
    """A pass and the kernel map in ms, the peak in MB, and the share of the matrix product's rate;
    or why there are none."""
    if not row.pass_s:
        return row.failure or "not measured", "", "", ""
    map_ms = "" if row.map_s is None else f"{row.map_s * 1e3:.1f}"
    share = f"{row.of_matrix_rate:.0%}" if row.operations else ""
    return f"{row.seconds * 1e3:.1f}", map_ms, f"{row.peak_bytes / 1e6:.0f}", share


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
