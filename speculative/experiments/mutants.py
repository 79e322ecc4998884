"""Verifiers with typical errors ("mutants"): negative controls, which a good test must catch.

Each takes target logits z, draft logits y, draft tokens and uniforms u as
`speculative.verification.verify.verify` does, and returns the accepted number and the next token
[B]. They share no code with it and compute in float64, with probabilities [B, G, V]. A greedy
draft that is verified as if it had been sampled is a mutant of drafting; it stands in its test.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from speculative.verification import philox


def correct(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The textbook's verifier, to show that the mutants differ by their mutation alone."""
    return _verify(z, y, tokens, u)


def wrong_residual(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Samples from p after a rejection."""
    return _verify(z, y, tokens, u, residual=lambda p, q: p)


def reused_uniform(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Decides every draft token with the first one's number."""
    gamma = tokens.shape[1]
    return _verify(z, y, tokens, torch.cat([u[:, :1].expand(-1, gamma), u[:, gamma:]], 1))


def wrong_bonus_row(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Samples the token after an accepted draft from the row before."""
    return _verify(torch.cat([z[:, :-1], z[:, -2:-1]], 1), y, tokens, u)


def temperature_mismatch(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Forgets 10 % of the temperature on the draft's side."""
    return _verify(z, y / 1.1, tokens, u)


def lenient(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Accepts 3 % more readily."""
    return _verify(z, y, tokens, torch.cat([u[:, : tokens.shape[1]] / 1.03, u[:, y.shape[1] :]], 1))


def residual_floor(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Clamps the residual at 1e-5, which revives excluded tokens."""
    return _verify(z, y, tokens, u, residual=lambda p, q: (p - q).clamp(min=1e-5))


def half_residual(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Takes the residual in half precision."""
    return _verify(
        z, y, tokens, u, residual=lambda p, q: (p.half() - q.half()).clamp(min=0).double()
    )


def coarse_uniforms(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Draws numbers of 6 bits."""
    return _verify(z, y, tokens, (u * 64).floor() / 64 + 1 / 128)


def wrong_normaliser(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Takes the sum of the draft's exponentials for 5 % smaller in the residual."""
    return _verify(z, y, tokens, u, residual=lambda p, q: (p - q / 0.95).clamp(min=0))


def correct_block(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The textbook's block verification."""
    return _block(z, y, tokens, u)


def block_at_first_failure(
    z: Tensor, y: Tensor, tokens: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Stops at the first block that is not allowed, instead of taking the longest."""
    return _block(z, y, tokens, u, longest=False)


def block_without_share(z: Tensor, y: Tensor, tokens: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Samples from the token rule's residual after a block."""
    return _block(z, y, tokens, u, shared=False)


FINE = (coarse_uniforms, wrong_normaliser)
"""Errors that a chi-square test over a few tokens does not see."""
BLOCK = (block_at_first_failure, block_without_share)
SAMPLING = (wrong_residual, reused_uniform, wrong_bonus_row, temperature_mismatch, lenient)


def _positive_part(p: Tensor, q: Tensor) -> Tensor:
    """The residual of the textbook's verifier: what the target has beyond the draft."""
    return (p - q).clamp(min=0)


def _verify(
    z: Tensor,
    y: Tensor,
    tokens: Tensor,
    u: Tensor,
    residual: Callable[[Tensor, Tensor], Tensor] = _positive_part,
) -> tuple[Tensor, Tensor]:
    """The textbook's verifier, with a residual of one's own (unnormalised [B, V])."""
    return decided(z.double().softmax(-1), y.double().softmax(-1), tokens, u, residual)


def decided(
    p: Tensor,
    q: Tensor,
    tokens: Tensor,
    u: Tensor,
    residual: Callable[[Tensor, Tensor], Tensor] = _positive_part,
) -> tuple[Tensor, Tensor]:
    """The same of probabilities [B, G + 1, V] and [B, G, V], float64."""
    gamma = tokens.shape[1]
    ratio = (p[:, :gamma] / q).gather(-1, tokens[..., None])[..., 0]
    n = (u[:, :gamma] < ratio).cumprod(-1).sum(-1)
    batch = torch.arange(len(n))
    last = p[batch, n]
    left = torch.where((n < gamma)[:, None], residual(last, q[batch, n.clamp(max=gamma - 1)]), last)
    return n, _sampled(left, u[:, gamma:].double())


def _sampled(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The winner of a race of the groups' sums, then of a race of the winning group's tokens."""
    arrivals = -torch.log1p(-uniforms)
    count = weights.shape[1]
    sums = torch.stack([part.sum(-1) for part in weights.split(philox.GROUP, -1)], -1)
    group = (sums / arrivals[:, count:]).argmax(-1, keepdim=True)
    others = torch.arange(count) // philox.GROUP != group
    return (weights / arrivals[:, :count]).masked_fill(others, -1).argmax(-1)


def _block(
    z: Tensor, y: Tensor, tokens: Tensor, u: Tensor, *, longest: bool = True, shared: bool = True
) -> tuple[Tensor, Tensor]:
    """The textbook's block verification, with one of its steps done wrong."""
    gamma = tokens.shape[1]
    p, q = z.double().softmax(-1), y.double().softmax(-1)
    share = torch.ones_like(p[:, 0, 0])
    n, kept, stopped = torch.zeros_like(tokens[:, 0]), share, share < 0
    for i in range(1, gamma + 1):
        x = tokens[:, i - 1, None]
        ratio = (p[:, i - 1].gather(-1, x) / q[:, i - 1].gather(-1, x))[:, 0]
        share = (share * ratio).clamp(max=1)
        chance = share
        if i < gamma:
            left = (share[:, None] * p[:, i] - q[:, i]).clamp(min=0).sum(-1)
            chance = torch.where(share < 1, left / (left + 1 - share), 1.0)
        allowed = (u[:, i - 1] < chance) & ~stopped
        n, kept = torch.where(allowed, i, n), torch.where(allowed, share, kept)
        if not longest:
            stopped |= ~allowed
    batch = torch.arange(len(n))
    scale = kept[:, None] if shared else torch.ones_like(kept[:, None])
    left = (scale * p[batch, n] - q[batch, n.clamp(max=gamma - 1)]).clamp(min=0)
    return n, _sampled(torch.where((n < gamma)[:, None], left, p[batch, n]), u[:, gamma:].double())
