"""`testbed bench sparse`: time a sparse convolution, ours against other engines and against dense.

python -m launch bench sparse                                          # minutes
python -m launch bench sparse --resolutions 64 128 256 --channels 64 128 --threads 2

It leaves rows.json, and a figure with its CSV, in a folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsepipe.bench.contest import Row, run, sweep
from sparsepipe.experiments.engine_figures import cells, sparse_against_dense
from systems import schema
from systems.figures.text import machine
from systems.flags import parse_flags, refuse_below_one
from systems.runs import provenance, record


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Measure time and memory of a 3x3x3 convolution, forward and backward, on the surface of a
    sphere."""

    resolutions: tuple[int, ...] = (32, 64, 128)
    """The numbers of voxels along a side of the cube that the sphere fills."""
    channels: tuple[int, ...] = (32, 64, 128)
    """The numbers of input channels, which are those of output channels too."""
    threads: int = 1
    """The threads of every engine. More than one means something only on cores that nothing else
    uses."""
    repetitions: int = 7
    """How many passes are timed, after two that are not."""
    out: str = "bench-sparse"
    """A new folder for the rows and the figure."""

    def __post_init__(self) -> None:
        numbers = {
            "resolutions": self.resolutions,
            "channels": self.channels,
            "threads": (self.threads,),
            "repetitions": (self.repetitions,),
        }
        refuse_below_one(numbers)


def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, draw."""
    program = "testbed bench sparse"
    flags = parse_flags(BenchArguments, arguments, program, BenchArguments())
    folder = Path(flags.out)
    record.claim_folder(folder)
    print(f"tier measured | forward and backward, median of {flags.repetitions} | {machine()}")
    print(
        f"{'cloud':>12}{'channels':>9}{'voxels':>9} {'engine':10}{'pass ms':>10}{'map ms':>8}"
        f"{'peak MB':>9}{'of GEMM':>9}"
    )
    rows: list[Row] = []
    for contest in sweep(flags.resolutions, flags.channels, flags.threads):
        measured = run(contest, flags.repetitions)
        rows += measured
        for row in measured:
            print(_line(row), flush=True)
        described = {"environment": provenance.environment(), "rows": schema.dump(rows)}
        record.write_json(folder / "rows.json", described)
    print(f"figure: {sparse_against_dense(rows, folder).path}")


def _line(row: Row) -> str:
    """A row as a line of the table."""
    step, made, peak, share = cells(row)
    start = f"{row.contest.cloud:>12}{row.contest.channels:>9}{row.voxels:>9,} {row.engine:10}"
    if not row.pass_s:
        return f"{start} {step}"
    return f"{start}{step:>10}{made:>8}{peak:>9}{share:>9}"
