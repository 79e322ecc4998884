"""The verification region on a GPU: what `testbed bench speculative --device cuda` found, judged.

A machine with a GPU measures the points that the claims are about; one without reads the
benchmark's file, if it lies in the current folder. Rows of a call are what a Python program sees;
rows of a CUDA graph are the kernels alone.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from speculative import bench
from speculative.bench import Row
from systems import schema
from systems.figures.claims import Claim, Target, claim
from systems.figures.draw import Bars, draw
from systems.figures.experiment import Figure, Outcome, Results
from systems.figures.text import table
from systems.runs import provenance, record
from systems.schema import InputError

VOCABULARY, GAMMA = 128_256, 8
"""What the claims are about."""
REPETITIONS = {"quick": 15, "full": 31}
COMMAND = "testbed bench speculative --device cuda"

Judged = dict[tuple[int, str], dict[str, Row]]
"""Rows by method, by batch and dtype."""


def measure(level: str, folder: Path) -> Results:
    """Rows of a GPU: the reproduction's own, the benchmark's, or measured now."""
    folder.mkdir(parents=True, exist_ok=True)
    own, benchmark = folder / "rows.json", Path(bench.file_name("cuda"))
    if not own.is_file() and benchmark.is_file():
        record.write_json(own, record.read_json(benchmark))
    elif not own.is_file() and torch.cuda.is_available():
        record.write_json(own, _measured(level))
    if not own.is_file():
        return {}
    saved = record.read_json(own)
    try:
        return {
            "rows": saved["rows"],
            "machine": [
                {"copy": saved["copy_bytes_per_s"], "gpu": saved["environment"]["gpus"][0]}
            ],
        }
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"{own}: no benchmark of a GPU ({error!r}); {COMMAND}") from None


def conclude(results: Results, folder: Path) -> Outcome:
    """Bandwidth, a table and the claims; without a GPU's rows a note says so."""
    if not results:
        note = f"No GPU here and no {bench.file_name('cuda')}: `{COMMAND}` measures these claims."
        return Outcome(figures=(), claims=(), notes=(note,))
    (machine,) = results["machine"]
    rows = [schema.read(Row, dict(row), "rows") for row in results["rows"]]
    judged = _judged(rows)
    return Outcome(
        figures=(_bandwidth(judged, machine, folder),) if judged else (),
        claims=tuple(_claims(judged, rows, machine["copy"])),
        notes=(_table(rows, machine),),
    )


def _measured(level: str) -> dict[str, Any]:
    grid = [VOCABULARY], [GAMMA], bench.BATCHES["cuda"], bench.LOGITS["cuda"]
    rows: list[Row] = []
    for case in bench.cases(*grid, "cuda", threads=1):
        print(f"  batch {case.batch}, {case.dtype}", flush=True)
        rows += bench.measure(case, REPETITIONS[level])
    return {
        "environment": provenance.environment(),
        "copy_bytes_per_s": bench.copy_bandwidth("cuda", threads=1),
        "rows": [asdict(row) for row in rows],
    }


def _judged(rows: Iterable[Row]) -> Judged:
    """The rows of the vocabulary and gamma that the claims are about."""
    judged: Judged = {}
    for row in rows:
        if (row.case.vocabulary, row.case.gamma) == (VOCABULARY, GAMMA):
            judged.setdefault((row.case.batch, row.case.dtype), {})[row.method] = row
    return judged


def _claims(judged: Judged, rows: list[Row], copy: float) -> Iterator[Claim]:
    """What is claimed of every batch and dtype; `copy` is a copy's bytes per second."""
    for (batch, dtype), by in judged.items():
        case = f"gpu-b-{batch}-{dtype}.measured"
        what = f"V = {VOCABULARY:,}, gamma {GAMMA}, batch {batch}, {dtype}, GPU"
        ours, theirs = by["exact"], by["transformers"]
        if batch > 1:
            yield claim(
                f"speculative.exact-bandwidth.{case}",
                f"floor's bytes per second over a copy's, {what}",
                [ours.bandwidth() / copy],
                Target(least=0.85, unit="of copy"),
            )
        else:
            yield claim(
                f"speculative.exact-over-transformers.{case}",
                f"time of transformers' function over exact's, {what}",
                [theirs.call_s.median / ours.call_s.median],
                Target(least=10.0, unit="x"),
            )
            yield claim(
                f"speculative.exact-over-two-softmaxes.{case}",
                f"time of two softmaxes, a gather and a race over exact's, in CUDA graphs, {what}",
                [_graph_s(by["two softmaxes"]) / _graph_s(ours)],
                Target(least=2.0, unit="x"),
            )
        yield claim(
            f"speculative.sigmoid-less-time.{case}",
            f"time that the approximation sigmoid saves of transformers' function, {what}",
            [1e2 * (1 - by["sigmoid"].call_s.median / theirs.call_s.median)],
            Target(least=94, source="arXiv 2406.11016, best of its range", unit="%"),
        )
    replayed = [row.graph_equal for row in rows if row.graph_equal is not None]
    if replayed:
        yield claim(
            "speculative.graph-replays-unlike.gpu.measured",
            f"replays unlike calls, of {len(replayed)}, GPU",
            [replayed.count(False)],
            Target(most=0),
        )


def _graph_s(row: Row) -> float:
    """The median time of a replay of the CUDA graph, or of a call where there is none."""
    return (row.graph_s or row.call_s).median


def _bandwidth(judged: Judged, machine: Mapping[str, Any], folder: Path) -> Figure:
    """Draw the bandwidth that every method achieves."""
    methods = ("two softmaxes", "exact", "sigmoid", "calibrated")
    panel = Bars(
        groups=[f"batch {batch}\n{dtype}" for batch, dtype in judged],
        series={m: [[by[m].bandwidth() / 1e9] for by in judged.values()] for m in methods},
        unit="GB/s of the floor's bytes",
        title=f"V = {VOCABULARY:,}, gamma {GAMMA} (measured)",
        reference=machine["copy"] / 1e9,
    )
    return draw(
        folder / "verification-gpu",
        [panel],
        f"CUDA graphs, medians; dashed: a large copy; {machine['gpu']}",
        title="(b) Achieved bandwidth on a GPU",
        tier="measured",
        caption="Bytes of the logits that a method must read, each once, over its time. Large "
        "batches stop at the first rejection and may so pass the dashed line.",
    )


def _table(rows: Iterable[Row], machine: Mapping[str, Any]) -> str:
    """All rows, in Markdown."""
    case = ("dtype", "batch", "V", "gamma", "method", "accepted")
    return table(
        (*case, "call, us", "graph, us", "of copy"),
        [
            (
                row.case.dtype,
                row.case.batch,
                f"{row.case.vocabulary:,}",
                row.case.gamma,
                row.method,
                f"{row.acceptance:.2f}",
                f"{row.call_s.median * 1e6:.1f}",
                "" if row.graph_s is None else f"{row.graph_s.median * 1e6:.1f}",
                f"{row.bandwidth() / machine['copy']:.0%}",
            )
            for row in rows
        ],
        f"{machine['gpu']}, copy {machine['copy'] / 1e9:.0f} GB/s.",
    )
