"""Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), the same on every device.

An ordinary generator hands out its numbers in order, so a number depends on how many were taken
before: on the batch around a request, on how many draft tokens were accepted, on which thread came
first. A counter-based generator has no order. It encrypts the coordinates of the place where a
number is used, with the seed as key, and the cipher text is the random number:

    (index // 4, position, request, stream) --- 10 rounds, keyed by the seed ---> 4 words of 32 bits
                                                                    index % 4 chooses one of them

So every number is a pure function of its place: a request gets the same tokens in every batch, and
CPU and GPU compute the same numbers in any order (`csrc/arithmetic.h` has the same rounds).

- seed: the key, 64 bits. One integer for a batch, or one for every request.
- request: the row of the batch if the seed is one integer, 0 if every request has its own seed.
- position: how many tokens the request had before the one that is decided, modulo 2^32.
- stream: what the number is for: `ACCEPT`, `NEXT`, `DRAFT` or `COUPLED`, or the groups of one.
- index: 0 for an acceptance; in a race, where every token has its own number, the token; in a race
  of groups the group.
"""

import torch
from torch import Tensor

ACCEPT, NEXT, DRAFT, COUPLED = 0, 1, 2, 3
"""Streams: accept a draft token, sample the next token, sample a draft token, and what target and
draft share where they are coupled."""
GROUPS = 4
"""Added to a stream: the numbers of its groups."""
GROUP = 2048
"""Tokens of a group. The next token's group is chosen first, by the groups' sums of weights."""

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF
LARGEST = 1 - 2.0**-24
"""The largest uniform; the smallest is 2^-33."""


def blocks(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four random words of every counter: the ten rounds of Philox.

    Args:
        counter: four int64 tensors that hold 32-bit words; they broadcast against each other.
        key: two more such tensors, the low and the high word of the seed.

    Returns:
        Four int64 tensors of 32-bit words.
    """
    a, b, c, d = counter
    left, right = key
    for _ in range(ROUNDS):
        # One round: two products, whose halves are crossed over and mixed with the key.
        high_a, low_a = _multiply(MULTIPLIERS[0], a)
        high_c, low_c = _multiply(MULTIPLIERS[1], c)
        a, b, c, d = high_c ^ b ^ left, low_c, high_a ^ d ^ right, low_a
        # The key moves on by a constant for the next round.
        left, right = (left + WEYL[0]) & LOW, (right + WEYL[1]) & LOW
    return a, b, c, d


def uniforms(seeds: Tensor, requests: Tensor, positions: Tensor, stream: int, count: int) -> Tensor:
    """Uniforms strictly between 0 and 1, with full relative precision near 0.

    Args:
        seeds, requests, positions: int64, broadcastable to one shape [...].
        stream: `ACCEPT`, `NEXT`, `DRAFT` or `COUPLED`.
        count: how many numbers each element gets.

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
    """The coordinates of a batch's random numbers, as the PyTorch operators take them.

    Returns:
        int64 [3, batch]: seeds, request numbers and first positions.
    """
    rows = torch.arange(batch, device=device)
    seeds = seed if isinstance(seed, Tensor) else torch.full_like(rows, signed(seed))
    numbers = torch.zeros_like(rows) if isinstance(seed, Tensor) else rows
    offsets = offset if isinstance(offset, Tensor) else torch.full_like(rows, offset)
    return torch.stack([seeds.to(device), numbers, offsets.to(device)])


def signed(seed: int) -> int:
    """The 64-bit integer that holds the same bits as `seed`, modulo 2^64, as torch wants it."""
    return (seed + 2**63) % 2**64 - 2**63


def groups(vocabulary: int) -> int:
    """How many groups a vocabulary has."""
    return -(-vocabulary // GROUP)


def race_uniforms(
    seeds: Tensor, requests: Tensor, positions: Tensor, stream: int, vocabulary: int
) -> Tensor:
    """The numbers of a race for one token, float32 [..., V + groups], or with COUPLED [..., V]."""
    tokens = uniforms(seeds, requests, positions, stream, vocabulary)
    if stream == COUPLED:
        return tokens
    of_groups = uniforms(seeds, requests, positions, stream + GROUPS, groups(vocabulary))
    return torch.cat([tokens, of_groups], -1)


def verification_uniforms(
    batch: int, gamma: int, vocabulary: int, seed: int | Tensor, offset: int | Tensor
) -> Tensor:
    """The numbers that `verify` uses for a seed and an offset, as its `uniforms` argument.

    Returns:
        float32 [batch, gamma + V + groups].
    """
    seeds, numbers, offsets = requests(batch, seed, offset, torch.device("cpu"))
    positions = offsets[:, None] + torch.arange(gamma)
    accept = uniforms(seeds[:, None], numbers[:, None], positions, ACCEPT, 1)[..., 0]
    return torch.cat([accept, race_uniforms(seeds, numbers, offsets, NEXT, vocabulary)], -1)


def coupled_uniforms(
    batch: int, gamma: int, vocabulary: int, seed: int | Tensor, offset: int | Tensor
) -> Tensor:
    """The same for the rule `Coupled`: float32 [batch, gamma + 1, V]."""
    seeds, numbers, offsets = requests(batch, seed, offset, torch.device("cpu"))
    positions = offsets[:, None] + torch.arange(gamma + 1)
    return uniforms(seeds[:, None], numbers[:, None], positions, COUPLED, vocabulary)


def _multiply(multiplier: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """The high and the low word of a product of two 32-bit words.

    torch has no unsigned 64-bit product, so the multiplier is split: no sum here overflows.
    """
    upper = x * (multiplier >> 16)
    lower = x * (multiplier & 0xFFFF)
    middle = upper + (lower >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (lower & 0xFFFF)
