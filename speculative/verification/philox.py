"""Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), the same on every device.

A draw is a pure function of where it is used, so it depends neither on the batch around a request
nor on the order of the work. Key: the seed. Counter: (index // 4, position, request, stream), with
words index % 4 of the block. `csrc/arithmetic.h` computes the same numbers.

- seed: 64 bits. One integer for a batch, or one per request.
- request: the row of the batch if the seed is one integer, 0 if every request has its own seed.
- position: how many tokens the request had before the one decided, modulo 2^32.
- stream: what the number is for, below.
- index: 0, or the vocabulary index where every token has its own number.
"""

import torch
from torch import Tensor

ACCEPT, NEXT, DRAFT = 0, 1, 2
"""Streams: accept a draft token, sample the next token, sample a draft token."""

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF
LARGEST = 1 - 2.0**-24
"""The largest uniform; the smallest is 2^-33."""


def blocks(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four random words per counter.

    Args:
        counter: four int64 tensors of 32-bit words; they broadcast against each other.
        key: two more.

    Returns:
        Four int64 tensors of 32-bit words.
    """
    a, b, c, d = counter
    left, right = key
    for _ in range(ROUNDS):
        high_a, low_a = _multiply(MULTIPLIERS[0], a)
        high_c, low_c = _multiply(MULTIPLIERS[1], c)
        a, b, c, d = high_c ^ b ^ left, low_c, high_a ^ d ^ right, low_a
        left, right = (left + WEYL[0]) & LOW, (right + WEYL[1]) & LOW
    return a, b, c, d


def uniforms(seeds: Tensor, requests: Tensor, positions: Tensor, stream: int, count: int) -> Tensor:
    """Uniforms strictly between 0 and 1, with full relative precision near 0.

    Args:
        seeds, requests, positions: int64, broadcastable to one shape [...].
        stream: `ACCEPT`, `NEXT` or `DRAFT`.
        count: numbers per element.

    Returns:
        float32 [..., count].
    """
    index = torch.arange((count + 3) // 4, device=seeds.device)
    seeds, requests, positions = (x.unsqueeze(-1) for x in (seeds, requests, positions))
    counter = (index, positions & LOW, requests & LOW, torch.full_like(index, stream))
    words = blocks(counter, (seeds & LOW, (seeds >> 32) & LOW))
    drawn = torch.stack(torch.broadcast_tensors(*words), -1).flatten(-2)[..., :count]
    return (drawn.float() * 2.0**-32 + 2.0**-33).clamp(max=LARGEST)


def requests(batch: int, seed: int | Tensor, offset: int | Tensor, device: torch.device) -> Tensor:
    """Seeds, request numbers and first positions of a batch, int64 [3, batch]."""
    rows = torch.arange(batch, device=device)
    seeds = seed if isinstance(seed, Tensor) else torch.full_like(rows, signed(seed))
    numbers = torch.zeros_like(rows) if isinstance(seed, Tensor) else rows
    offsets = offset if isinstance(offset, Tensor) else torch.full_like(rows, offset)
    return torch.stack([seeds.to(device), numbers, offsets.to(device)])


def signed(seed: int) -> int:
    """The 64-bit integer that holds the same bits as `seed`, modulo 2^64, as torch wants it."""
    return (seed + 2**63) % 2**64 - 2**63


def verification_uniforms(
    batch: int, gamma: int, vocabulary: int, seed: int | Tensor, offset: int | Tensor
) -> Tensor:
    """What `verify` draws for a seed and an offset, as its `uniforms` argument takes it.

    Returns:
        float32 [batch, gamma + vocabulary].
    """
    seeds, numbers, offsets = requests(batch, seed, offset, torch.device("cpu"))
    positions = offsets[:, None] + torch.arange(gamma)
    accept = uniforms(seeds[:, None], numbers[:, None], positions, ACCEPT, 1)[..., 0]
    return torch.cat([accept, uniforms(seeds, numbers, offsets, NEXT, vocabulary)], -1)


def _multiply(multiplier: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a 64-bit product, in signed 64-bit arithmetic that never overflows."""
    upper = x * (multiplier >> 16)
    lower = x * (multiplier & 0xFFFF)
    middle = upper + (lower >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (lower & 0xFFFF)
