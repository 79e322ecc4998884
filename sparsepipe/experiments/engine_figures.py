"""Draws "sparse against dense", and the table of all contests."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sparsepipe.bench.contest import Row
from systems.figures.draw import Lines, draw
from systems.figures.experiment import Figure
from systems.runs import record

Curve = tuple[Sequence[float], Sequence[float]]


def sparse_against_dense(rows: Sequence[Row], folder: Path) -> Figure:
    """Time and peak memory over the resolution, for every number of channels, one thread."""
    alone = [row for row in rows if row.pass_s and _in_sweep(row)]
    widths = sorted({row.contest.channels for row in alone})
    panels = [
        Lines(
            series=_series([row for row in alone if row.contest.channels == width], value),
            x_label="voxels along a side",
            y_label=label,
            title=f"{width} channels, 1 thread (measured)",
            logarithmic=True,
            logarithmic_x=True,
        )
        for width in widths
        for label, value in (
            ("forward and backward, ms", lambda row: row.seconds * 1e3),
            ("peak memory, MB", lambda row: row.peak_bytes / 1e6),
        )
    ]
    path = draw(
        folder / "sparse-against-dense",
        panels,
        f"3x3x3 convolution on the surface of a sphere that fills the cube; medians; {machine()}",
    )
    return Figure(
        path=path,
        title="Sparse against dense",
        tier="measured",
        caption="One convolution of equal channels, the kernel map made before. Dense volumes "
        "whose pass would take minutes are left out.",
    )


def machine() -> str:
    """What the measurements were taken on."""
    here = record.environment()
    return f"{here['processor']}, {here['cores']} cores, torch {here['packages']['torch']}"


def table(rows: Sequence[Row]) -> str:
    """All contests, in Markdown."""
    lines = [
        "| cloud | voxels | channels | threads | engine | pass ms | map ms | peak MB | of GEMM |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        contest = row.contest
        lines.append(
            f"| {contest.cloud} | {row.voxels:,} | {contest.channels or 'MinkVGG16-BN'} "
            f"| {contest.threads} | {row.engine} | {' | '.join(cells(row))} |"
        )
    return "\n".join(lines)


def cells(row: Row) -> tuple[str, str, str, str]:
    """Pass and kernel map in ms, peak in MB, share of the GEMM rate; or why there are none."""
    if not row.pass_s:
        return row.failure or "not measured", "", "", ""
    made = "" if row.map_s is None else f"{row.map_s * 1e3:.1f}"
    share = f"{row.of_matrix_rate:.0%}" if row.operations else ""
    return f"{row.seconds * 1e3:.1f}", made, f"{row.peak_bytes / 1e6:.0f}", share


def _side(row: Row) -> int:
    return int(row.contest.cloud.removeprefix("sphere:"))


def _in_sweep(row: Row) -> bool:
    """One sphere, one thread, memory unlimited."""
    contest = row.contest
    single = contest.cloud.startswith("sphere") and "x" not in contest.cloud
    return single and contest.threads == 1 and contest.memory_limit_bytes is None


def _series(rows: Sequence[Row], value: Callable[[Row], float]) -> Mapping[str, Curve]:
    found: dict[str, Curve] = {}
    for engine in dict.fromkeys(row.engine for row in rows):
        mine = {_side(row): row for row in rows if row.engine == engine}
        found[engine] = (sorted(mine), [value(mine[side]) for side in sorted(mine)])
    return found
