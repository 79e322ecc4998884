"""The signs of gradients alone: `--stanza.exchange 1-bit` (1-bit SGD, Seide et al. 2014; with the
scale of arXiv 1901.09847, section 4, for each block of values in place of each layer)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Eight bytes that are 0 or 1 are an int64 whose product with _GATHER has their lowest bits side by
# side in its highest byte, the first of them lowest. A byte times _SPREAD is eight copies of it, of
# which _ONE_OF_EACH keeps one bit each.
_GATHER, _SPREAD = 0x0102040810204080, 0x0101010101010101
_ONE_OF_EACH = 0x8040201008040201 - 2**64


class OneBit:
    """Sends a bit for each value, its sign, and for each block the mean magnitude of its values."""

    error_feedback = True

    def __init__(self, block: int = 256) -> None:
        """Give so many neighbouring values one scale."""
        self._block = block

    def encode(self, values: Tensor) -> list[Tensor]:
        """Return the signs, eight in a byte, uint8 [n / 8], and the scales, float [n / block], both
        rounded up."""
        magnitudes = _in_rows(values.abs(), self._block)
        counts = torch.full((len(magnitudes),), self._block, device=values.device)
        counts[-1] = len(values) - self._block * (len(magnitudes) - 1)
        bits = _in_rows((values >= 0).to(torch.uint8), 8).view(torch.int64).view(-1)
        return [(bits * _GATHER >> 56).to(torch.uint8), magnitudes.sum(1) / counts]

    def decode(self, messages: Sequence[Tensor], size: int) -> Tensor:
        """Multiply each block's scale by the signs of its values, float [size]."""
        packed, scales = messages
        bits = (packed.long() * _SPREAD & _ONE_OF_EACH).view(torch.uint8)[:size]
        positive = _in_rows(bits, self._block) > 0
        scales = scales.unsqueeze(1)
        return torch.where(positive, scales, -scales).flatten()[:size]


def _in_rows(values: Tensor, length: int) -> Tensor:
    """Arrange the values in rows of `length`, with zeros at the end."""
    return F.pad(values, (0, -len(values) % length)).view(-1, length)
