"""How often a verifier decides unlike the float64 reference, on random logits and drafts."""

from collections.abc import Callable

import torch
from torch import Tensor

from speculative.verification import kernels, philox, pytorch, reference
from speculative.verification.filters import Filters
from speculative.verification.masks import masked
from speculative.verification.rules import EXACT, Block, Calibrated, Coupled, Rule, Sigmoid
from speculative.verification.verify import UNFILTERED, Verification

Drafted = tuple[Tensor, Tensor, Tensor]
Case = tuple[Tensor, Tensor | None, Tensor]
"""Target logits, draft logits (or None) and draft tokens."""
Decide = Callable[..., Verification]
"""A verifier; takes what `speculative.verification.verify.verify` takes."""
TIE = 1e-4
"""Decisions whose relative margin is smaller may go either way in float32."""
RULES: tuple[Rule, ...] = (
    EXACT,
    Sigmoid(),
    Calibrated(0.1, 0.9, -0.9),  # accepts where both models agree
    Block(),
    Coupled(),
)
"""A rule of every method."""


def drafted(
    batch: int, gamma: int, vocabulary: int, seed: int = 0, *, spread: float = 3.0
) -> Drafted:
    """Target logits, draft logits near them, and tokens sampled from the draft."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(batch, gamma + 1, vocabulary, generator=generator) * spread
    draft = target[:, :gamma] + torch.randn(batch, gamma, vocabulary, generator=generator)
    flat = draft.softmax(-1).flatten(0, 1)
    tokens = flat.multinomial(1, generator=generator).view(batch, gamma)
    return target, draft, tokens


def referred(
    case: Case,
    uniforms: Tensor,
    lengths: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    filters: Filters | None = None,
    **options: object,
) -> list[reference.Decision]:
    """The reference's decision for every sequence."""
    decisions = []
    target_logits, draft_logits, draft_tokens = case
    for b, (target, tokens) in enumerate(zip(target_logits, draft_tokens, strict=True)):
        gamma = len(tokens)
        n = gamma if lengths is None else int(lengths[b])
        if uniforms.dim() == 3:  # of the rule Coupled
            u = uniforms[b]
        else:
            u = torch.cat([uniforms[b, :n], uniforms[b, gamma:]])
        draft = None if draft_logits is None else draft_logits[b, :n].double()
        heat = float(temperature[b] if isinstance(temperature, Tensor) else temperature)
        rows = target[: n + 1].double(), draft, tokens[:n]
        of_row = None if filters is None else filters_at(filters, b)
        decisions.append(
            reference.verify(*rows, u, temperature=heat, filters=of_row, **options)  # type: ignore[arg-type]
        )
    return decisions


def filters_at(filters: Filters, b: int) -> Filters:
    """The filters of one sequence, with numbers in place of tensors."""
    values = (x[b].item() if isinstance(x, Tensor) else x for x in filters.numbers)
    top_k, top_p, min_p = values
    return Filters(
        top_k=int(top_k), top_p=float(top_p), min_p=float(min_p), of_draft=filters.of_draft
    )


def uniforms_of(case: Case, rule: object, seed: int, offset: int = 0) -> Tensor:
    """The numbers that a rule uses for a seed, as `verify` takes them."""
    target, _, tokens = case
    batch, gamma = tokens.shape
    make = philox.coupled_uniforms if isinstance(rule, Coupled) else philox.verification_uniforms
    return make(batch, gamma, target.shape[-1], seed, offset)


def with_operators(
    target: Tensor,
    draft: Tensor | None,
    tokens: Tensor,
    *,
    rule: Rule = EXACT,
    temperature: float | Tensor = 1.0,
    filters: Filters = UNFILTERED,
    lengths: Tensor | None = None,
    seed: int | Tensor = 0,
    offset: int | Tensor = 0,
    uniforms: Tensor | None = None,
    log_probabilities: Tensor | None = None,
) -> Verification:
    """`verify` in PyTorch operators, as where there is no compiler."""
    requests = philox.requests(len(tokens), seed, offset, target.device)
    if draft is not None and filters.of_draft:
        draft = masked(draft, filters.allowed)
    decided = pytorch.verify(
        masked(target, filters.allowed),
        draft,
        tokens,
        lengths,
        uniforms,
        requests,
        rule=rule,
        temperature=temperature,
        limits=kernels.limits_of(tokens, *filters.separated()),
        filters_draft=filters.of_draft,
        log_probabilities=log_probabilities,
    )
    return Verification(*decided.unbind())


def rows(decided: Verification) -> list[tuple[int, int, int]]:
    """The accepted number, the next token and the status of every sequence."""
    return [(int(a), int(b), int(c)) for a, b, c in torch.stack(decided).t()]


def differences(case: Case, decide: Decide, seed: int, **options: object) -> tuple[int, int]:
    """The number of sequences that are decided unlike the reference, and the number of ties.

    Ties do not count as unlike. Checks as well that uniforms and the seed they come from agree.
    """
    lengths = options.pop("lengths", None)
    u = uniforms_of(case, options.get("rule"), seed)
    found = rows(decide(*case, lengths=lengths, uniforms=u, **options))
    expected = referred(case, u, lengths, **options)  # type: ignore[arg-type]
    assert found == rows(decide(*case, lengths=lengths, seed=seed, **options))
    ties = sum(bool(decision.margin < TIE) for decision in expected)
    pairs = zip(found, expected, strict=True)
    return sum(a != b[:3] for a, b in pairs if b.margin >= TIE), ties


def unlike_at_large_vocabulary(decide: Callable[..., tuple[Tensor, Tensor]]) -> int:
    """How many of 192 sequences over 10,007 tokens a verifier decides unlike the reference, at the
    same numbers. It sees errors that move too little mass for a chi-square test."""
    case = drafted(192, 2, 10_007, seed=3)
    u = philox.verification_uniforms(192, 2, 10_007, 4, 0)
    expected = referred(case, u)
    accepted, token = decide(*case, u)
    found = zip(accepted.tolist(), token.tolist(), expected, strict=True)
    return sum((n, x) != b[:2] for n, x, b in found if b.margin >= TIE)


def unlike_on_flat_rows(decide: Callable[..., tuple[Tensor, Tensor]]) -> int:
    """How many of 32 sequences a verifier decides unlike the reference on nearly flat rows.

    The draft is near the target, and the uniforms reject whatever can be rejected.
    """
    target, draft, tokens = drafted(32, 1, 128_256, seed=9, spread=0.1)
    draft = target[:, :1] + (draft - target[:, :1]) * 0.01
    u = philox.verification_uniforms(32, 1, 128_256, 4, 0)
    u[:, 0] = 1 - 2.0**-24
    expected = referred((target, draft, tokens), u)
    accepted, token = decide(target, draft, tokens, u)
    found = zip(accepted.tolist(), token.tolist(), expected, strict=True)
    return sum((n, x) != b[:2] for n, x, b in found if b.margin >= TIE)
