"""Filters: which tokens of a row may be sampled at all, by top-k, top-p and min-p.

    from speculative.verification.filters import Filters

    verify(target_logits, draft_logits, draft_tokens, filters=Filters(top_k=50, top_p=0.9))

A filter sets the probability of some tokens to 0; the rest are normalised anew. Verification with
filters decides as verification of logits that are -inf at those tokens, but the kernels write no
such logits: they find where every row is cut, and see what is beyond the cut as -inf.

All filters look at one order of a row's tokens: greater logits first and, among equal logits, lower
numbers first, as `torch.argmax` takes them. Each keeps the first tokens of that order, so together
they keep as many as the strictest does:

    top_k    the first k
    top_p    of those, the fewest whose probabilities, normalised among those, sum to p at least
    min_p    of those, the ones that have at least min_p times the probability of the first

So ties are no matter of chance: of equal tokens top_k and top_p keep the lowest numbers, min_p
keeps all or none. The first token is always kept. Where a sum of probabilities is p up to rounding,
rounding decides.

    tokens by their order   7     2     4     0     ...
    probability             0.50  0.30  0.15  0.05
    top_k=3                 kept  kept  kept
    top_p=0.9 after it      kept  kept  kept             0.50 + 0.30 is 0.84 of the three
    min_p=0.5               kept  kept

Before all of them a mask may say which tokens a grammar allows: what it forbids has probability 0,
and the filters look at the rest. A row that allows nothing is at fault, as one of -inf alone.

A new filter is a field here and in csrc/arithmetic.h (`Filter`), and a bound of the order in
`reference_filters.kept` (float64, the meaning), `cuts` (PyTorch) and csrc/cuts.h.
"""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from systems.schema import InputError

if TYPE_CHECKING:  # options, which need no torch, are checked with this file
    from torch import Tensor

EVERYTHING = (0.0, 1.0, 0.0)
"""The numbers of filters that leave out nothing."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which tokens of the rows may be sampled. Every field takes a number, or a tensor [B] with a
    number for every sequence. In a tensor, a number out of range counts as the nearest in range,
    since finding it would make the host wait; NaN filters nothing.

    Raises:
        InputError: a number is out of range.
    """

    top_k: "int | Tensor" = 0
    """How many tokens are kept; a tensor is int64. 0: all."""
    top_p: "float | Tensor" = 1.0
    """What probability the kept tokens have together; a tensor is float32. 1: all."""
    min_p: "float | Tensor" = 0.0
    """What share of the likeliest token's probability a kept one has; a tensor is float32. 0: all
    tokens."""
    of_draft: bool = True
    """Whether the draft tokens were sampled under the same filters and mask. If not, their rows are
    read as they are."""
    allowed: "Tensor | None" = None
    """A mask of the tokens that a grammar allows, as xgrammar and vLLM have them: int32 [B, rows,
    ceil(V / 32)], where bit i % 32 of word i // 32 is token i (`speculative.verification.masks`).
    The rows are those of the target's logits, G + 1 in `verify` and 1 in `sample`; the draft's row
    for the same place has the same mask. The CPU's kernels read the bits; elsewhere, on a GPU too,
    masked copies of the logits are made first. None: all tokens."""

    def __post_init__(self) -> None:
        check_numbers(self.top_k, self.top_p, self.min_p)

    @property
    def numbers(self) -> "tuple[int | Tensor, float | Tensor, float | Tensor]":
        """What the kernels read, in the order of `Filter` in csrc/arithmetic.h."""
        return self.top_k, self.top_p, self.min_p

    def separated(self) -> "tuple[list[float], Tensor | None, Tensor | None, Tensor | None]":
        """The numbers as the operators take them.

        Returns:
            The numbers for all sequences, `EVERYTHING` where there are tensors, empty where nothing
            is filtered; then the tensors of top_k, top_p and min_p, or None.
        """
        import torch

        numbers = self.numbers
        top_k, top_p, min_p = (x if isinstance(x, torch.Tensor) else None for x in numbers)
        if top_k is top_p is min_p is None and numbers == EVERYTHING:
            return [], None, None, None
        limits = [
            everything if isinstance(number, torch.Tensor) else float(number)
            for number, everything in zip(numbers, EVERYTHING, strict=True)
        ]
        return limits, top_k, top_p, min_p


LEAST_TEMPERATURE, LARGEST_TEMPERATURE = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""The positive numbers that float32 holds in full, between which a temperature lies."""


def check_temperature(temperature: Any) -> None:
    """Refuse what is no temperature.

    Raises:
        InputError: names the value and the range.
    """
    if not isinstance(temperature, Real):
        raise InputError(f"temperature {temperature!r}: give a number")
    if temperature != 0 and not LEAST_TEMPERATURE <= float(temperature) <= LARGEST_TEMPERATURE:
        raise InputError(
            f"temperature {temperature:g}: give more than 0, or 0 for greedy decoding; float32 "
            f"holds {LEAST_TEMPERATURE:.2g} to {LARGEST_TEMPERATURE:.2g}"
        )


def check_numbers(top_k: Any, top_p: Any, min_p: Any) -> None:
    """Refuse numbers that are out of range; tensors pass.

    Raises:
        InputError: names the filter, the value and the range.
    """
    for name, value in (("top_p", top_p), ("min_p", min_p)):
        if not hasattr(value, "dtype") and not isinstance(value, Real):
            raise InputError(f"{name} {value!r}: give a number")
    if not hasattr(top_k, "dtype") and not (isinstance(top_k, Integral) and int(top_k) >= 0):
        raise InputError(f"top_k {top_k!r}: give 1 or more, or 0 for all tokens")
    if isinstance(top_p, Real) and not 0 < float(top_p) <= 1:
        raise InputError(f"top_p {top_p:g}: give more than 0, at most 1")
    if isinstance(min_p, Real) and not 0 <= float(min_p) <= 1:
        raise InputError(f"min_p {min_p:g}: give 0 to 1")


def in_range(top_k: float, top_p: float, min_p: float) -> tuple[float, float, float]:
    """The numbers of one sequence as they count: infinity for a top_k that keeps all."""
    return (
        top_k if top_k >= 1 else math.inf,
        max(top_p, 0.0) if top_p < 1 else 1.0,
        min(min_p, 1.0) if min_p > 0 else 0.0,
    )
