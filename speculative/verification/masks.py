"""Masks of allowed tokens, as grammars give them: one bit a token, in words of 32 bits.

Bit i % 32 of word i // 32 says whether token i is allowed, as in xgrammar and vLLM. A mask is int32
[..., W] with W = ceil(V / 32); bits past the last token are not looked at.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BITS = 32
"""Tokens of a word."""


def words(vocabulary: int) -> int:
    """How many words the mask of a row has."""
    return -(-vocabulary // BITS)


def packed(allowed: Tensor) -> Tensor:
    """The mask int32 [..., W] of what is allowed, bool [..., V]."""
    missing = words(allowed.shape[-1]) * BITS - allowed.shape[-1]
    bits = F.pad(allowed.long(), (0, missing)).unflatten(-1, (-1, BITS))
    whole = (bits << torch.arange(BITS, device=allowed.device)).sum(-1)
    return torch.where(whole < 2**31, whole, whole - 2**32).int()  # bit 31 is the sign


def unpacked(mask: Tensor, vocabulary: int) -> Tensor:
    """What a mask int32 [..., W] allows, bool [..., V]."""
    bits = mask[..., None] >> torch.arange(BITS, dtype=torch.int32, device=mask.device) & 1
    return bits.flatten(-2)[..., :vocabulary].bool()


def masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits [B, rows, V] with -inf for tokens that are not allowed.

    Args:
        mask: int32 [B, rows or more, W]; None: all are allowed.
    """
    if mask is None:
        return logits
    allowed = unpacked(mask[:, : logits.shape[1]], logits.shape[-1])
    return logits.masked_fill(~allowed, -torch.inf)
