"""Filters in PyTorch operators: which tokens of a row are kept (`filters` says what that means).

Nothing is sorted. What is kept are the first tokens of an order, so a row is cut at one place: at
a logit and, among the tokens that have just this logit, after some number of them. The logit is
found by bisection: it is the greatest v for which the tokens from v on amount to enough, in their
number or their probability.
"""

import torch
from torch import Tensor

LOWEST, HIGHEST = -0x7F800000, 0x7F800000
"""`_ordered` of -inf and of infinity."""
STEPS = 32
"""Bisections that find one number of those between them."""


def limited(logits: Tensor, temperature: Tensor, limits: Tensor | None) -> Tensor:
    """The logits with -inf for tokens that are not kept.

    Args:
        logits: floating point [B, rows, V].
        temperature: float32 [B, 1], above 0.
        limits: top_k, top_p and min_p of every sequence, float [B, 3]; None: all are kept.
    """
    if limits is None:
        return logits
    return logits.masked_fill(~kept(logits, temperature, limits), -torch.inf)


def kept(logits: Tensor, temperature: Tensor, limits: Tensor) -> Tensor:
    """Which tokens are kept, bool [B, rows, V]; arguments as in `limited`. Of a row that holds NaN
    or +inf, or nothing finite, all are."""
    z = logits.float()
    top_k, top_p, min_p = limits.double()[..., None].unbind(1)
    ordered, maximum = _ordered(z), z.amax(-1, keepdim=True)
    weights = ((z - maximum) / temperature[..., None]).exp()
    first = torch.ones((), dtype=z.dtype, device=z.device)
    among = torch.where(
        (top_k >= 1)[..., None], _first(ordered, first, top_k.expand(z.shape[:-1])), True
    )
    weights = weights * among
    total = weights.sum(-1, dtype=torch.float64)
    enough = (top_p * total).clamp(min=torch.finfo(torch.float64).tiny)
    likely = torch.where((top_p < 1)[..., None], _first(ordered, weights, enough), True)
    least = maximum.double() + (temperature * min_p.clamp(max=1).log())[..., None]
    above = torch.where((min_p > 0)[..., None], z >= least, True)
    return (among & likely & above) | ~maximum.isfinite()


def _first(ordered: Tensor, weights: Tensor, wanted: Tensor) -> Tensor:
    """The fewest first tokens of the order whose weights sum to what is wanted, bool [..., V].

    Args:
        ordered: int32 [..., V] (`_ordered`).
        weights: float32 [..., V], or a number for every token; equal where logits are.
        wanted: float64 [...].
    """

    def amount(of: Tensor) -> Tensor:
        return torch.where(of, weights, 0).sum(-1, dtype=torch.float64)

    low = torch.full(wanted.shape, LOWEST, dtype=torch.int64, device=wanted.device)
    high = low.new_full((), HIGHEST + 1).expand_as(low)
    for _ in range(STEPS):
        middle = (low + high).div(2, rounding_mode="floor")
        enough = amount(ordered >= middle[..., None]) >= wanted
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    above, equal = ordered > low[..., None], ordered == low[..., None]
    # Of the tokens at the cut, so many are missing.
    each = torch.where(equal, weights, 0).amax(-1).double()
    missing = ((wanted - amount(above)) / each).ceil()
    return above | (equal & (equal.cumsum(-1, dtype=torch.int32) <= missing[..., None]))


def _ordered(z: Tensor) -> Tensor:
    """Integers int32 in the order of the float32 z, equal where z are equal."""
    bits = (z + 0.0).view(torch.int32)  # -0 becomes 0
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
