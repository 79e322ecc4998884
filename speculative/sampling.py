"""How tokens are sampled from logits, the same for target and draft: verification compares both."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Temperature, and which tokens may be sampled at all."""

    temperature: float = 1.0
    """Divides the logits."""
    top_k: int = 0
    """Sample among so many likeliest tokens. 0: all."""
    top_p: float = 1.0
    """Sample among the fewest likeliest tokens that have this much probability. 1: all."""
    suppressed: tuple[int, ...] = ()
    """Tokens that are never sampled."""
    begin_suppressed: tuple[int, ...] = ()
    """Tokens that are not sampled first."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise InputError(
                f"temperature {self.temperature:g}: give more than 0; "
                "top_k 1 always takes the likeliest token"
            )
        if self.top_k < 0:
            raise InputError(f"top_k {self.top_k}: give 1 or more, or 0 for all tokens")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p:g}: give more than 0, at most 1")

    def restrict(self, logits: Tensor, *, begins: bool = False) -> Tensor:
        """Logits [B, T, V] with -inf for tokens that may not be sampled; not yet tempered.

        Args:
            begins: position 0 of T is the first of the generated text.
        """
        from transformers import TopKLogitsWarper, TopPLogitsWarper

        if self.suppressed or (begins and self.begin_suppressed):
            logits = logits.clone()
            logits[..., list(self.suppressed)] = -torch.inf
            if begins:
                logits[:, 0, list(self.begin_suppressed)] = -torch.inf
        rows = logits.flatten(0, 1)
        if 0 < self.top_k < rows.shape[-1]:
            rows = TopKLogitsWarper(self.top_k)(None, rows)
        if self.top_p < 1:
            kept = TopPLogitsWarper(self.top_p)(None, rows.float() / self.temperature)
            rows = rows.masked_fill(kept == -torch.inf, -torch.inf)
        return rows.view_as(logits)


def suppression(model: Any) -> dict[str, tuple[int, ...]]:
    """What a model's own generation config suppresses (Whisper), as arguments of `Sampling`."""
    config = model.generation_config
    return {
        "suppressed": tuple(getattr(config, "suppress_tokens", None) or ()),
        "begin_suppressed": tuple(getattr(config, "begin_suppress_tokens", None) or ()),
    }
