"""Gradients in 16 bits, for parameter servers: `--stanza.exchange bf16` and `fp16`.

DDP has hooks of torch that do the same, and sum in 16 bits too.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class BFloat16:
    """Sends every value in bfloat16: the range of float32, and 8 bits of precision."""

    dtype = torch.bfloat16

    def encode(self, values: Tensor) -> list[Tensor]:
        """The rounded values, [n]."""
        return [values.to(self.dtype)]

    def decode(self, messages: Sequence[Tensor], size: int) -> Tensor:
        """The rounded values in float32, [size]."""
        return messages[0].float()


class Float16(BFloat16):
    """Sends every value in float16: 11 bits of precision, and nothing below 6e-8."""

    dtype = torch.float16
