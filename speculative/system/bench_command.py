"""`testbed bench speculative`: time the verification of drafts, ours against transformers and
against a copy of the same bytes.

python -m launch bench speculative                                     # a minute on a laptop
python -m launch bench speculative --device cuda                       # ten minutes on a GPU

It leaves one JSON file with the rows, the copy bandwidth, the environment and the command. `launch
reproduce speculative` judges such a file of a GPU if it lies in the working directory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from speculative import bench, ngrams
from speculative.bench import Row
from systems import schema
from systems.flags import parse_flags, refuse_below_one
from systems.runs import provenance, record
from systems.schema import InputError

VOCABULARIES = (32_000, 51_865, 128_256, 256_000)


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """Measure how long verification takes, for every vocabulary, gamma, batch and dtype."""

    vocabularies: tuple[int, ...] | None = None
    """The sizes of the vocabulary, in tokens. None takes 32,000, 51,865, 128,256 and 256,000."""
    logits: bench.Logits = "normal"
    """Normally distributed logits, or those of an n-gram model of English with 72,547 words, which
    needs the extra ngram."""
    gammas: tuple[int, ...] = (1, 4, 8, 16)
    """The numbers of drafted tokens."""
    batches: tuple[int, ...] | None = None
    """The numbers of sequences. transformers verifies one at a time. None takes 1 on a CPU, 1 and
    64 on a GPU."""
    dtypes: tuple[Literal["float32", "float16", "bfloat16"], ...] | None = None
    """The dtypes of the logits. None takes float32 on a CPU, float32 and bfloat16 on a GPU."""
    device: Literal["cpu", "cuda"] = "cpu"
    """The device to measure on."""
    threads: int = 1
    """The threads of the CPU."""
    repetitions: int = 15
    """How many calls are timed, after two that are not."""
    out: str | None = None
    """A new file for the rows. None takes bench-speculative-DEVICE.json."""

    def __post_init__(self) -> None:
        numbers = {
            "vocabularies": (1,) if self.vocabularies is None else self.vocabularies,
            "gammas": self.gammas,
            "batches": (1,) if self.batches is None else self.batches,
            "threads": (self.threads,),
            "repetitions": (self.repetitions,),
        }
        refuse_below_one(numbers)
        if self.logits == "ngram" and self.vocabularies is not None:
            sizes = " ".join(map(str, self.vocabularies))
            raise InputError(
                f"--vocabularies {sizes}: --logits ngram has a vocabulary of its own; leave one out"
            )
        if self.dtypes == ():
            raise InputError(f"--dtypes (none): give some of {', '.join(bench.DTYPES)}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: torch sees no GPU here; write --device cpu")


def main(arguments: Sequence[str]) -> None:
    """Measure, print a table, save."""
    program = "testbed bench speculative"
    flags = parse_flags(BenchArguments, arguments, program, BenchArguments())
    out = Path(flags.out or bench.file_name(flags.device))
    record.check_new_file(out)
    here = provenance.environment()
    machine = here["gpus"][0] if flags.device == "cuda" else here["processor"]
    print(f"tier measured | median of {flags.repetitions} | {machine}, {flags.threads} thread(s)")
    vocabularies = flags.vocabularies or VOCABULARIES
    if flags.logits == "ngram":
        vocabularies = (len(ngrams.read().words),)
    copy = bench.copy_bandwidth(flags.device, flags.threads)
    print(f"copy bandwidth {copy / 1e9:.1f} GB/s, read and written")
    print(
        f"{'dtype':9}{'batch':>6}{'V':>8}{'gamma':>6}  {'method':14}{'accepted':>9}{'call us':>10}"
        f"{'graph us':>10}{'faster':>8}{'of copy':>9}  replay"
    )
    rows: list[Row] = []
    batches = flags.batches or bench.BATCHES[flags.device]
    dtypes = flags.dtypes or bench.LOGITS[flags.device]
    grid = vocabularies, flags.gammas, batches, dtypes
    for case in bench.cases(*grid, flags.device, flags.threads, flags.logits):
        measured = bench.measure(case, flags.repetitions)
        rows += measured
        for row in measured:
            print(_line(row, measured[0], copy), flush=True)
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
    """A row as a line of the table, beside the row of transformers for the same case and the copy
    bandwidth in bytes per second."""
    case, call = row.case, row.call_s.median
    graph = "" if row.graph_s is None else f"{row.graph_s.median * 1e6:.1f}"
    replay = {None: "", True: "  equal", False: "  UNLIKE"}[row.graph_equal]
    return (
        f"{case.dtype:9}{case.batch:>6}{case.vocabulary:>8}{case.gamma:>6}  {row.method:14}"
        f"{row.acceptance:>9.2f}{call * 1e6:>10.1f}{graph:>10}"
        f"{transformers.call_s.median / call:>7.1f}x{row.bandwidth() / copy:>9.0%}{replay}"
    )
