"""The largest gradients alone: `--stanza.exchange top-k` (Deep Gradient Compression, arXiv
1712.01887, section 3.1, without its momentum correction)."""

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor


class TopK:
    """Sends the values of largest magnitude, and where they stand. The others are left for later
    steps."""

    error_feedback = True

    def __init__(self, density: float = 0.01) -> None:
        """Send this part of the values, and one at least."""
        self._density = density

    def encode(self, values: Tensor) -> list[Tensor]:
        """Return the largest values, float [k], and their places, int32 [k]."""
        count = ceil(self._density * len(values))
        places = values.abs().topk(count, sorted=False).indices
        return [values[places], places.to(torch.int32)]

    def decode(self, messages: Sequence[Tensor], size: int) -> Tensor:
        """Put the values in their places, among zeros, float [size]."""
        values, places = messages
        return values.new_zeros(size).index_copy_(0, places.long(), values)
