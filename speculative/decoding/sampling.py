"""Says how tokens are sampled from logits.

Target and draft must sample alike, since verification compares their distributions.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from systems.schema import InputError

if TYPE_CHECKING:  # options, which need no torch, are checked with this file
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The temperature, and which tokens may be sampled at all.

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
    suppressed: tuple[int, ...] = ()
    """The tokens that are never sampled."""
    begin_suppressed: tuple[int, ...] = ()
    """The tokens that are not sampled as the first of a text."""

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p"):
            value = getattr(self, name)
            if not isinstance(value, Real):
                raise InputError(f"{name} {value!r}: give a number")
        if not 0 <= self.temperature < math.inf:
            raise InputError(
                f"temperature {self.temperature:g}: give more than 0, or 0 for greedy decoding"
            )
        if not isinstance(self.top_k, Integral) or self.top_k < 0:
            raise InputError(f"top_k {self.top_k!r}: give 1 or more, or 0 for all tokens")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p:g}: give more than 0, at most 1")
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

    def limit(self, logits: "Tensor") -> "Tensor":
        """The logits with -inf for tokens that temperature 0, top-k or top-p leave out. They are
        not divided by the temperature.

        Args:
            logits: floating point [B, T, V]. A row that holds NaN still holds NaN afterwards.
        """
        top_k = 1 if self.greedy else self.top_k
        if 0 < top_k < logits.shape[-1]:
            logits = _likeliest(logits, top_k)
        if self.top_p < 1 and not self.greedy:
            logits = _most_probable(logits, self.top_p, self.temperature)
        return logits


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


def suppression(model: Any) -> dict[str, tuple[int, ...]]:
    """The tokens that a model's generation config suppresses (Whisper's does), as arguments of
    `Sampling`."""
    config = model.generation_config
    return {
        "suppressed": tuple(getattr(config, "suppress_tokens", None) or ()),
        "begin_suppressed": tuple(getattr(config, "begin_suppress_tokens", None) or ()),
    }


def _likeliest(logits: "Tensor", k: int) -> "Tensor":
    """The logits of exactly the k likeliest tokens of every row, lower numbers first where logits
    are equal; the others become -inf."""
    import torch

    least = logits.topk(k).values[..., -1:]
    equal = logits == least
    wanted = k - (logits > least).sum(-1, keepdim=True)
    late = equal & (equal.cumsum(-1, dtype=torch.int32) > wanted)
    return logits.masked_fill((logits < least) | late, -math.inf)


def _most_probable(logits: "Tensor", p: float, temperature: float) -> "Tensor":
    """The logits of the fewest likeliest tokens of every row whose probabilities at this
    temperature sum to p; the others become -inf."""
    import torch
    import torch.nn.functional as F

    widened = logits.float()
    scaled = (widened - widened.amax(-1, keepdim=True)) / temperature
    ordered, tokens = scaled.sort(dim=-1, descending=True, stable=True)
    likelier = F.pad(ordered.softmax(-1).cumsum(-1)[..., :-1], (1, 0))
    dropped = torch.zeros_like(likelier, dtype=torch.bool).scatter(-1, tokens, likelier >= p)
    return logits.masked_fill(dropped, -math.inf)
