"""Verifiers with typical errors of filters: negative controls, which an audit must reject.

Each takes target logits z [B, G + 1, V], draft logits y [B, G, V], draft tokens, uniforms u as in
`speculative.experiments.mutants`, and the filters. They compute in float64 and share no code with
verification. What is right stands in `speculative.verification.filters`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from speculative.experiments import mutants
from speculative.verification.filters import Filters

Keep = Callable[[Tensor, Filters], Tensor]
"""Which tokens of rows [..., V] are kept, bool."""
Verify = Callable[[Tensor, Tensor, Tensor, Tensor, Filters], tuple[Tensor, Tensor]]


def kept(z: Tensor, filters: Filters) -> Tensor:
    """What the filters keep of rows of logits [..., V], bool."""
    first, p, order = _first_k(z, filters)
    p = p * first / (p * first).sum(-1, keepdim=True)
    first &= p.cumsum(-1) - p < filters.top_p
    first &= p >= filters.min_p * p[..., :1]
    return _of_tokens(first, order)


def ties_by_higher_numbers(z: Tensor, filters: Filters) -> Tensor:
    """Keeps those of equal logits that have the higher numbers."""
    return kept(z.flip(-1), filters).flip(-1)


def all_ties(z: Tensor, filters: Filters) -> Tensor:
    """Keeps all logits that are equal to the last one kept."""
    return z >= z.masked_fill(~kept(z, filters), torch.inf).amin(-1, keepdim=True)


def top_p_without_its_last(z: Tensor, filters: Filters) -> Tensor:
    """Leaves out the token with which the sum reaches top_p."""
    first, p, order = _first_k(z, filters)
    p = p * first / (p * first).sum(-1, keepdim=True)
    first &= p.cumsum(-1) <= filters.top_p
    first &= p >= filters.min_p * p[..., :1]
    return _of_tokens(first, order)


def top_p_of_all_tokens(z: Tensor, filters: Filters) -> Tensor:
    """Takes top_p of all tokens' probability, instead of what top_k has left."""
    first, p, order = _first_k(z, filters)
    first &= p.cumsum(-1) - p < filters.top_p
    first &= p >= filters.min_p * p[..., :1]
    return _of_tokens(first, order)


def min_p_of_one(z: Tensor, filters: Filters) -> Tensor:
    """Compares min_p with the probability itself, not with its share of the likeliest one's."""
    p = z.double().softmax(-1)
    return kept(z, filters) & ((p >= filters.min_p) | (p == p.amax(-1, keepdim=True)))


def right(
    z: Tensor, y: Tensor, tokens: Tensor, u: Tensor, filters: Filters
) -> tuple[Tensor, Tensor]:
    """The textbook's verifier, of logits that are -inf at what is left out."""
    return _keeping(kept)(z, y, tokens, u, filters)


def of_the_target_alone(
    z: Tensor, y: Tensor, tokens: Tensor, u: Tensor, filters: Filters
) -> tuple[Tensor, Tensor]:
    """Filters the target, and not the draft."""
    return mutants.correct(_excluding(z, kept(z, filters)), y, tokens, u)


def not_normalised_anew(
    z: Tensor, y: Tensor, tokens: Tensor, u: Tensor, filters: Filters
) -> tuple[Tensor, Tensor]:
    """Leaves probabilities as they were among all tokens."""
    p, q = (x.double().softmax(-1) * kept(x, filters) for x in (z, y))
    return mutants.decided(p, q, tokens, u)


WRONG_CUTS: tuple[Keep, ...] = (
    ties_by_higher_numbers,
    all_ties,
    top_p_without_its_last,
    top_p_of_all_tokens,
    min_p_of_one,
)


def _keeping(keep: Keep) -> Verify:
    """The textbook's verifier, under filters that keep what this function says."""

    def verify(
        z: Tensor, y: Tensor, tokens: Tensor, u: Tensor, filters: Filters
    ) -> tuple[Tensor, Tensor]:
        p, q = (_excluding(x, keep(x, filters)) for x in (z, y))
        return mutants.correct(p, q, tokens, u)

    return verify


WRONG: dict[str, Verify] = {
    function.__name__.replace("_", " "): verify
    for function, verify in (
        (of_the_target_alone, of_the_target_alone),
        (not_normalised_anew, not_normalised_anew),
        *((keep, _keeping(keep)) for keep in WRONG_CUTS),
    )
}
"""The mutants by their names."""


def _first_k(z: Tensor, filters: Filters) -> tuple[Tensor, Tensor, Tensor]:
    """By falling logits, lower numbers first: whether top_k keeps a token, the probabilities of
    all, and which tokens they are."""
    order = z.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(z.shape[-1], device=z.device).expand(z.shape)
    p = z.double().softmax(-1).gather(-1, order)
    return places < (filters.top_k or z.shape[-1]), p, order


def _of_tokens(first: Tensor, order: Tensor) -> Tensor:
    """By the tokens' numbers, what was said by their order; the first one is always kept."""
    first[..., 0] = True
    return torch.zeros_like(first).scatter(-1, order, first)


def _excluding(z: Tensor, keep: Tensor) -> Tensor:
    """The logits with -inf where a token is not kept."""
    return z.masked_fill(~keep, -torch.inf)
