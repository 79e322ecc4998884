"""Verification on the GPU: first whether it decides rightly, then how long it takes."""

import importlib.util
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from typing import Any

import torch

from speculative import bench
from speculative.experiments.agreement import RULES, with_operators
from speculative.verification.filters import Filters
from speculative.verification.verify import verify
from systems.measure import timed
from tests.gpu.machine import GPU
from tests.gpu.parts import Row, Scale

FILTERS = (Filters(), Filters(top_k=50, top_p=0.9))
"""All tokens, and what engines filter by."""
MOST_BYTES = 4 * 2**30
"""Logits of more bytes than this are checked in bfloat16 alone."""


def agreement(scale: Scale) -> Iterator[Row]:
    """Sequences that are decided unlike PyTorch's operators do on the same uniforms, of which only
    ties can be, and unlike a second call, of which there can be none."""
    for batch, gamma, vocabulary in scale.checked:
        for dtype in bench.DTYPES:
            case = _case(batch, gamma, vocabulary, dtype)
            if dtype != "bfloat16" and (2 * gamma + 1) * case.row_bytes > MOST_BYTES:
                continue
            given = bench.inputs(case, seed=1)
            for rule, filters in product(RULES, FILTERS):
                options: dict[str, Any] = {"rule": rule, "filters": filters, "seed": 7}
                decided = torch.stack(verify(*given, **options))
                again = torch.stack(verify(*given, **options))
                plain = torch.stack(with_operators(*given, **options))
                yield {
                    **_sizes(case),
                    "rule": type(rule).__name__,
                    "filtered": filters != FILTERS[0],
                    "unlike_pytorch": int((decided != plain).any(0).sum()),
                    "unlike_again": int((decided != again).any(0).sum()),
                    "faults": int((decided[2] != 0).sum()),
                }


def verification(scale: Scale) -> Iterator[Row]:
    """The times of every method on every size, and what share of a copy's rate that is."""
    copy = bench.copy_bandwidth("cuda", threads=1)
    for vocabulary in scale.vocabularies:
        for batch in scale.batches:
            for gamma in scale.gammas:
                for dtype in scale.logits:
                    case = _case(batch, gamma, vocabulary, dtype)
                    yield from _timed(case, scale.repetitions, copy)
                    yield from _flashinfer(case, scale.repetitions)


def _timed(case: bench.Case, repetitions: int, copy: float) -> Iterator[Row]:
    """A row for every method, with its time over that of transformers' function."""
    rows = bench.measure(case, repetitions)
    theirs = next(row.call_s.median for row in rows if row.method == "transformers")
    for row in rows:
        found: dict[str, Any] = asdict(row)
        del found["case"]
        yield {
            **_sizes(case),
            **found,
            "share_of_copy": row.bandwidth() / copy,
            "transformers_over_this": theirs / row.call_s.median,
        }


def _flashinfer(case: bench.Case, repetitions: int) -> Iterator[Row]:
    """The time of FlashInfer's verification, where it is installed: it takes probabilities, so two
    softmaxes go before it."""
    if importlib.util.find_spec("flashinfer") is None:
        return
    target, draft, tokens = bench.inputs(case, seed=1)
    words = tokens.int()
    try:
        import flashinfer

        def call() -> object:
            p, q = target.softmax(-1, torch.float32), draft.softmax(-1, torch.float32)
            return flashinfer.sampling.chain_speculative_sampling(q, words, p)

        found = timed(call, warm_up=2, repetitions=repetitions, device=GPU)
        yield {**_sizes(case), "method": "flashinfer", "call_s": asdict(found)}
    except Exception as error:  # another version, or no kernels for this GPU
        yield {**_sizes(case), "method": "flashinfer", "failed": repr(error)[:200]}


def _case(batch: int, gamma: int, vocabulary: int, dtype: str) -> bench.Case:
    return bench.Case(
        vocabulary=vocabulary, gamma=gamma, batch=batch, dtype=dtype, device="cuda", threads=1
    )


def _sizes(case: bench.Case) -> Row:
    """The columns that say which case it is."""
    return {
        "batch": case.batch,
        "gamma": case.gamma,
        "vocabulary": case.vocabulary,
        "dtype": case.dtype,
    }
