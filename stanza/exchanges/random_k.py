"""Gradients that are drawn by lot: `--stanza.exchange random-k` (arXiv 1809.07599, definition 2.1,
with lots that are put back)."""

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor


class RandomK:
    """Sends values at random places. Both sides draw them from a number that travels as well, so
    the places need not. The other values are left for later steps."""

    error_feedback = True

    def __init__(self, density: float = 0.01) -> None:
        """Draw so many values for each value, and one at least."""
        self._density = density
        self._numbers = torch.Generator().manual_seed(0)

    def encode(self, values: Tensor) -> list[Tensor]:
        """Return the drawn values, float [k], and the number that their places are drawn from,
        int64 [1]."""
        number = torch.randint(2**62, (1,), generator=self._numbers)
        return [values[self._places(number, len(values))], number.to(values.device)]

    def decode(self, messages: Sequence[Tensor], size: int) -> Tensor:
        """Put the values in their places, among zeros, float [size]."""
        values, number = messages
        return values.new_zeros(size).index_copy_(0, self._places(number, size), values)

    def _places(self, number: Tensor, size: int) -> Tensor:
        """Draw the places that a number stands for, int64 [k]; one place may be drawn twice."""
        lots = torch.Generator().manual_seed(int(number))
        count = ceil(self._density * size)
        return torch.randint(size, (count,), generator=lots).to(number.device)
