"""Says how tokens are sampled from logits.

Target and draft must sample alike, since verification compares their distributions.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING

from speculative.verification.filters import Filters, check_numbers, check_temperature
from systems.schema import InputError

if TYPE_CHECKING:  # options, which need no torch, are checked with this file
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The temperature, and which tokens may be sampled at all: top-k, then top-p of what is left,
    then min-p (`speculative.verification.filters`).

    Raises:
        InputError: a value is out of range.
    """

    temperature: float = 1.0
    """Divides the logits. 0: greedy decoding, torch.argmax of the logits."""
    top_k: int = 0
    """How many of the likeliest tokens may be sampled; among equally likely ones those with the
    lower number come first. 0: all. 1: greedy decoding."""
    top_p: float = 1.0
    """Only the fewest likeliest tokens that have this much probability together may be sampled,
    chosen among equally likely ones as for `top_k`. 1: all."""
    min_p: float = 0.0
    """Only tokens with this share of the likeliest one's probability may be sampled. 0: all."""
    suppressed: tuple[int, ...] = ()
    """The tokens that are never sampled."""
    begin_suppressed: tuple[int, ...] = ()
    """The tokens that are not sampled as the first of a text."""

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        check_numbers(self.top_k, self.top_p, self.min_p)
        for name in ("suppressed", "begin_suppressed"):
            check_tokens(name, getattr(self, name))

    def check(self, vocabulary: int) -> None:
        """Refuse suppressed tokens that a vocabulary of this size does not have.

        Raises:
            InputError: one of the suppressed tokens is outside the vocabulary.
        """
        for name in ("suppressed", "begin_suppressed"):
            check_tokens(name, getattr(self, name), vocabulary)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken; nothing is left to chance then."""
        return self.temperature == 0 or self.top_k == 1

    @property
    def divisor(self) -> float:
        """The temperature for verification, 0 wherever the likeliest token is taken."""
        return 0.0 if self.greedy else self.temperature

    def suppress(self, logits: "Tensor", *, begins: bool = False) -> "Tensor":
        """The logits with -inf for the suppressed tokens.

        Args:
            logits: floating point [B, T, V].
            begins: whether position 0 of T is the first of the generated text.

        Raises:
            InputError: one of the suppressed tokens is outside the vocabulary.
        """
        self.check(logits.shape[-1])
        if self.suppressed or (begins and self.begin_suppressed):
            logits = logits.clone()
            logits[..., list(self.suppressed)] = -math.inf
            if begins:
                logits[:, 0, list(self.begin_suppressed)] = -math.inf
        return logits

    @cached_property
    def filters(self) -> Filters:
        """What verification filters by; nothing if the likeliest token is taken."""
        if self.greedy:
            return Filters()
        return Filters(top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)

    def limit(self, logits: "Tensor") -> "Tensor":
        """The logits with -inf for tokens that temperature 0 or the filters leave out. They are not
        divided by the temperature.

        Args:
            logits: floating point [B, T, V]. A row that holds NaN still holds NaN afterwards.
        """
        import torch

        from speculative.verification.cuts import limited

        numbers = (1, 1, 0) if self.greedy else self.filters.numbers
        if numbers == (0, 1, 0):
            return logits
        limits = torch.tensor([numbers], dtype=torch.float64, device=logits.device)
        heat = torch.full((len(logits), 1), self.temperature or 1.0, device=logits.device)
        return limited(logits, heat, limits.expand(len(logits), -1))

    def log_probabilities(self, logits: "Tensor") -> "Tensor":
        """The logarithms of the probabilities that tokens are sampled with: the log-softmax after
        the filters and the temperature. Greedy decoding has neither: the log-softmax alone.

        Args:
            logits: floating point [B, T, V].

        Returns:
            float32 [B, T, V].
        """
        if self.greedy:
            return logits.float().log_softmax(-1)
        return (self.limit(logits).float() / self.temperature).log_softmax(-1)


def check_tokens(name: str, tokens: Iterable[int], vocabulary: float = math.inf) -> None:
    """Refuse tokens that a vocabulary does not have.

    Args:
        name: what the tokens are called in messages.

    Raises:
        InputError: `tokens` is not a sequence of integers from 0 to below `vocabulary`.
    """
    if not isinstance(tokens, Iterable) or isinstance(tokens, str):
        raise InputError(f"{name} {tokens!r}: give a sequence of tokens, such as ({tokens!r},)")
    for token in tokens:
        if not isinstance(token, Integral) or token < 0:
            raise InputError(f"{name}: {token!r} is no token; give integers of 0 or more")
        if token >= vocabulary:
            raise InputError(
                f"{name}: token {token} is outside the vocabulary; give 0 to {vocabulary - 1}"
            )
