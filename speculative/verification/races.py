"""Samples tokens from weights, in PyTorch operators.

The next token is sampled by an exponential race, because a race needs neither the sum of the
weights nor a walk through them in order. Token i, of weight w_i, arrives after an exponentially
distributed time of rate w_i, which is E_i / w_i for E_i = -log(1 - uniform_i); the first to arrive
wins. The earliest of several exponential times belongs to token i with probability w_i / (sum of
all w), so the winner is distributed as the normalised weights, whatever their sum is. The residual
max(0, p - q) is such a set of weights: nobody has to normalise it, tokens with nothing left never
arrive, and every token is judged on its own, in any order, by any thread:

    token        0      1      2      3
    w = p - q   0.00   0.20   0.05   0.10
    E            -     0.90   0.10   0.70
    E / w      never    4.5    2.0    7.0        token 2 arrives first and is the next token

A race may be held in two rounds: groups of tokens race by their sums of weights, then the tokens of
the group that won. Token i wins with probability (sum of its group / sum of all) times (w_i / sum
of its group), which is the same, and only one group's tokens need random numbers. `Coupled` alone
races all tokens at once: so target and draft agree more often.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from speculative.verification import philox


def in_two_rounds(
    weights: Tensor, requests: Tensor, stream: int, uniforms: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Sample a token from weights [B, V]: its group first, then the token.

    Args:
        requests: int64 [3, B] (`philox.requests`).
        uniforms: float32 [B, V + groups]; None: they are counted from `requests` and `stream`.

    Returns:
        The winner int64 [B], and whether any token arrived, bool [B].
    """
    vocabulary = weights.shape[-1]
    size = min(philox.GROUP, vocabulary)  # a small vocabulary is one group
    if uniforms is None:
        seeds, numbers, positions = requests
        uniforms = philox.race_uniforms(seeds, numbers, positions, stream, vocabulary)
    tokens, groups = uniforms[:, :vocabulary], uniforms[:, vocabulary:]
    missing = groups.shape[1] * size - vocabulary
    by_group = F.pad(weights, (0, missing)).unflatten(-1, (-1, size))
    group, _ = _first(by_group.sum(-1), groups)
    numbers = F.pad(tokens, (0, missing), value=0.5).unflatten(-1, (-1, size))
    place = group[:, None, None].expand(-1, 1, size)
    token, arrived = _first(by_group.gather(1, place)[:, 0], numbers.gather(1, place)[:, 0])
    return group * size + token, arrived


def coupled(logits: Tensor, temperature: Tensor, requests: Tensor, position: int) -> Tensor:
    """The token that every row takes by the noise of a position, int64 [B]; -1 for a row at fault.

    Args:
        logits: [B, V].
        temperature: float32 [B, 1].
        position: is added to the positions of the requests.
    """
    seeds, numbers, positions = requests
    drawn = philox.uniforms(seeds, numbers, positions + position, philox.COUPLED, logits.shape[-1])
    return by_noise(logits, temperature, drawn)


def by_noise(logits: Tensor, temperature: Tensor, uniforms: Tensor) -> Tensor:
    """As `coupled`, with given noise float32 [B, V]."""
    z = logits.float()
    scaled = (z - z.amax(-1, keepdim=True)) / temperature
    token, arrived = _first(scaled.exp(), uniforms)
    return torch.where(arrived & ~_faulty(z), token, -1)


def likeliest(logits: Tensor) -> Tensor:
    """The token of the greatest logit, the lowest number among equals, int64 [...]; -1 for a row
    [..., V] at fault."""
    return torch.where(_faulty(logits), -1, logits.argmax(-1))


def _faulty(logits: Tensor) -> Tensor:
    """Whether a row holds NaN or +inf or nothing finite, bool [...]."""
    return ~(logits < torch.inf).all(-1) | (logits == -torch.inf).all(-1)


def _first(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The weight of [B, N] that arrives first, int64 [B], and whether any does, bool [B]."""
    arrivals = -torch.log1p(-uniforms.clamp(2.0**-33, philox.LARGEST))
    best = (weights / arrivals).max(-1)  # the largest rate is the earliest time
    return best.indices, best.values > 0
