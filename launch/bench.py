"""`launch bench sparse`: one sparse convolution, native against MinkowskiEngine against dense.

python -m launch bench sparse                                          # minutes
python -m launch bench sparse --resolutions 64 128 256 --channels 64 128 --threads 2

Leaves rows.json, and a figure with its CSV, in a folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import job as jobs
from sparsepipe import bench
from sparsepipe.bench import Row
from systems import record, schema
from systems.figure import Lines, draw
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Time and memory of a 3x3x3 convolution, forward and backward, on a sphere's surface."""

    resolutions: tuple[int, ...] = (32, 64, 128)
    """Voxels along a side of the cube that the sphere fills."""
    channels: tuple[int, ...] = (32, 64, 128)
    """Input and output channels."""
    threads: int = 1
    """Of every engine. Two or more are only meaningful on cores that nothing else uses."""
    repetitions: int = 7
    """Passes that are timed, after two that are not."""
    out: str = "bench-sparse"
    """A new folder for the rows and the figure."""

    def __post_init__(self) -> None:
        given = {
            "resolutions": self.resolutions,
            "channels": self.channels,
            "threads": (self.threads,),
            "repetitions": (self.repetitions,),
        }
        for name, values in given.items():
            if not values or min(values) < 1:
                shown = " ".join(map(str, values)) or "(none)"
                raise InputError(f"--{name} {shown}: give whole numbers from 1 on")


def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, draw."""
    program = "launch bench sparse"
    flags = jobs.parse_flags(BenchArguments, arguments, program, BenchArguments())
    folder = Path(flags.out)
    record.claim_folder(folder)
    print(f"tier measured | forward and backward, median of {flags.repetitions} | {_machine()}")
    print(
        f"{'engine':10}{'side':>5}{'channels':>9}{'voxels':>9}{'pass ms':>10}{'map ms':>8}"
        f"{'peak MB':>9}{'of GEMM':>9}"
    )
    rates = {width: bench.matrix_rate(width, flags.threads) for width in flags.channels}
    rows: list[Row] = []
    for case in bench.cases(flags.resolutions, flags.channels, flags.threads):
        row = bench.measure(case, flags.repetitions)
        if row is None:
            print(f"{case.engine:10} is not installed; make minkowski")
            continue
        rows.append(row)
        print(_line(row, rates[case.channels]), flush=True)
    record.write_json(
        folder / "rows.json",
        {
            "environment": record.environment(),
            "matrix_operations_per_s": rates,
            "rows": schema.dump(rows),
        },
    )
    print(f"figure: {_figure(rows, flags, folder)}")


def _machine() -> str:
    here = record.environment()
    return f"{here['processor']}, {here['cores']} cores, torch {here['packages']['torch']}"


def _line(row: Row, rate: float) -> str:
    case, step = row.case, row.pass_s
    made = "" if row.map_s is None else f"{row.map_s.median * 1e3:.1f}"
    share = row.operations / step.median / rate
    return (
        f"{case.engine:10}{case.resolution:>5}{case.channels:>9}{row.voxels:>9,}"
        f"{step.median * 1e3:>10.1f}{made:>8}{row.peak_bytes / 1e6:>9.0f}{share:>9.0%}"
    )


def _figure(rows: Sequence[Row], flags: BenchArguments, folder: Path) -> Path:
    panels = [
        Lines(
            series=_series([row for row in rows if row.case.channels == width], quantity),
            x_label="voxels along a side",
            y_label=label,
            title=f"{width} channels, {flags.threads} thread(s) (measured)",
            logarithmic=True,
            logarithmic_x=True,
        )
        for width in flags.channels
        for quantity, label in (("ms", "forward and backward, ms"), ("MB", "peak memory, MB"))
    ]
    note = f"3x3x3 convolution on the surface of a sphere; {_machine()}"
    return draw(folder / "sparse-against-dense", panels, note)


def _series(
    rows: Sequence[Row], quantity: str
) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    def value(row: Row) -> float:
        return row.pass_s.median * 1e3 if quantity == "ms" else row.peak_bytes / 1e6

    found: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for engine in bench.ENGINES:
        mine = [row for row in rows if row.case.engine == engine]
        if mine:
            found[engine] = ([row.case.resolution for row in mine], [value(row) for row in mine])
    return found
