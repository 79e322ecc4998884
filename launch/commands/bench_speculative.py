"""`launch bench speculative`: verification of drafts, against transformers and the byte floor.

python -m launch bench speculative                                     # a minute on a laptop
python -m launch bench speculative --device cuda                       # ten minutes on a GPU

Leaves one JSON file: rows, the copy bandwidth, environment and command. `launch reproduce
speculative` judges a GPU's file that it finds in the folder it is called in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from launch import job as jobs
from speculative import bench
from speculative.bench import Row
from systems import schema
from systems.runs import record
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Time of the verification region for every vocabulary, gamma, batch and dtype."""

    vocabularies: tuple[int, ...] = (32_000, 51_865, 128_256, 256_000)
    """Tokens of the vocabulary."""
    gammas: tuple[int, ...] = (1, 4, 8, 16)
    """Drafted tokens."""
    batches: tuple[int, ...] | None = None
    """Sequences; transformers verifies one at a time. None: 1, on a GPU 1 and 64."""
    dtypes: tuple[Literal["float32", "float16", "bfloat16"], ...] | None = None
    """Of the logits. None: float32, on a GPU float32 and bfloat16."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where."""
    threads: int = 1
    """Of the CPU."""
    repetitions: int = 15
    """Turns that are timed, after two that are not."""
    out: str | None = None
    """A new file for the rows. None: bench-speculative-DEVICE.json."""

    def __post_init__(self) -> None:
        given = {
            "vocabularies": self.vocabularies,
            "gammas": self.gammas,
            "batches": (1,) if self.batches is None else self.batches,
            "threads": (self.threads,),
            "repetitions": (self.repetitions,),
        }
        jobs.refuse_below_one(given)
        if self.dtypes == ():
            raise InputError(f"--dtypes (none): give some of {', '.join(bench.DTYPES)}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: torch sees no GPU here; write --device cpu")


def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, save."""
    program = "launch bench speculative"
    flags = jobs.parse_flags(BenchArguments, arguments, program, BenchArguments())
    out = Path(flags.out or bench.file_name(flags.device))
    record.check_new_file(out)
    here = record.environment()
    machine = here["gpus"][0] if flags.device == "cuda" else here["processor"]
    print(f"tier measured | median of {flags.repetitions} | {machine}, {flags.threads} thread(s)")
    copy = bench.copy_bandwidth(flags.device, flags.threads)
    print(f"copy bandwidth {copy / 1e9:.1f} GB/s, read and written")
    print(
        f"{'dtype':9}{'batch':>6}{'V':>8}{'gamma':>6}  {'method':14}{'accepted':>9}{'call us':>10}"
        f"{'graph us':>10}{'faster':>8}{'of copy':>9}  replay"
    )
    rows: list[Row] = []
    batches = flags.batches or bench.BATCHES[flags.device]
    dtypes = flags.dtypes or bench.LOGITS[flags.device]
    grid = flags.vocabularies, flags.gammas, batches, dtypes
    for case in bench.cases(*grid, flags.device, flags.threads):
        found = bench.measure(case, flags.repetitions)
        rows += found
        for row in found:
            print(_line(row, found[0], copy), flush=True)
    record.write_json(
        out,
        {
            "tier": "measured",
            "command": record.command_line(),
            "environment": here,
            "copy_bytes_per_s": copy,
            "rows": schema.dump(rows),
        },
    )
    print(f"rows: {out}")


def _line(row: Row, transformers: Row, copy: float) -> str:
    case, call = row.case, row.call_s.median
    graph = "" if row.graph_s is None else f"{row.graph_s.median * 1e6:.1f}"
    replay = {None: "", True: "  equal", False: "  UNLIKE"}[row.graph_equal]
    return (
        f"{case.dtype:9}{case.batch:>6}{case.vocabulary:>8}{case.gamma:>6}  {row.method:14}"
        f"{row.acceptance:>9.2f}{call * 1e6:>10.1f}{graph:>10}"
        f"{transformers.call_s.median / call:>7.1f}x{row.bandwidth() / copy:>9.0%}{replay}"
    )
