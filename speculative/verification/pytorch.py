"""Verification in PyTorch operators: for any device, and where there is no compiler.

Softmax is never written out. Each row is reduced, chunk by chunk, to its maximum and its sum of
exponentials; draft tokens are accepted on gathered logits; and only the pair of rows that the next
token comes from becomes weights (`Block` weighs the rows of all draft tokens). The kernels in
`csrc` do the same, faster. How a token is sampled from weights stands in `races`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from speculative.verification import philox, races
from speculative.verification.arithmetic import (
    Arithmetic,
    Softmaxes,
    arithmetic_of,
    log_probabilities_of,
    probabilities,
    reduced,
    row_at,
)
from speculative.verification.cuts import limited
from speculative.verification.filters import LARGEST_TEMPERATURE, LEAST_TEMPERATURE
from speculative.verification.rules import Block, Coupled, Rule
from speculative.verification.status import (
    DRAFT_LOGITS,
    DRAFT_TOKEN,
    LENGTH,
    TARGET_LOGITS,
    TEMPERATURE,
)


class Draft(NamedTuple):
    """What was drafted, and how much of it counts."""

    tokens: Tensor
    """int64 [B, G]."""
    lengths: Tensor
    """int64 [B]."""
    outside: Tensor
    """Whether a token is outside the vocabulary, bool [B, G]."""

    @property
    def within(self) -> Tensor:
        """Whether a place counts, bool [B, G]."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return places < self.lengths[:, None]


class Kept(NamedTuple):
    """What stays of a draft; tensors [B]."""

    accepted: Tensor
    """int64: the accepted draft tokens."""
    fault: Tensor
    """int64: the status so far."""
    share: Tensor
    """float64: what multiplies the target's probabilities in the residual; 1 but for `Block`."""


def verify(
    target_logits: Tensor,
    draft_logits: Tensor | None,
    draft_tokens: Tensor,
    lengths: Tensor | None,
    uniforms: Tensor | None,
    requests: Tensor,
    *,
    rule: Rule,
    temperature: float | Tensor,
    limits: Tensor | None = None,
    filters_draft: bool = True,
    log_probabilities: Tensor | None = None,
) -> Tensor:
    """Verify draft tokens: `speculative.verification.verify.verify` on checked arguments.

    Args:
        requests: int64 [3, B]: seeds, request numbers, first positions (`philox.requests`).
        limits: the filters of every sequence, float [B, 3] (`cuts.limited`).
        filters_draft: whether they hold for the draft's rows too.
        log_probabilities: is filled, if it is not None.

    Returns:
        int64 [3, B]: accepted, next_token, status.
    """
    (batch, gamma), vocabulary = draft_tokens.shape, target_logits.shape[-1]
    if lengths is None:
        lengths = draft_tokens.new_full((batch,), gamma)
    outside = (draft_tokens < 0) | (draft_tokens >= vocabulary)
    draft = Draft(draft_tokens, lengths, outside)
    divisor, greedy = _temperatures(temperature, batch, target_logits.device)
    target_logits = limited(target_logits, divisor, limits)
    if draft_logits is not None and filters_draft:
        draft_logits = limited(draft_logits, divisor, limits)
    if isinstance(rule, Coupled):
        decided = _match(_coupled(target_logits, divisor, requests, uniforms), draft)
    else:
        if draft_logits is None:
            draft_logits = _certain(draft_tokens, target_logits)
        decided = _decide(rule, target_logits, draft_logits, draft, uniforms, requests, divisor)
    if greedy is not None:
        decided = torch.where(greedy, _match(races.likeliest(target_logits), draft), decided)
    wrong = ((lengths < 0) | (lengths > gamma)) * LENGTH
    if isinstance(temperature, Tensor):
        wrong = wrong | ~divides(temperature) * TEMPERATURE
    refused = torch.stack([torch.zeros_like(wrong), torch.full_like(wrong, -1), wrong])
    decided = torch.where(wrong > 0, refused, decided)
    if log_probabilities is not None:
        scored = log_probabilities_of(target_logits, divisor, draft_tokens, decided)
        if greedy is not None:  # the likeliest token is certain
            scored = torch.where(greedy[:, None] & ~scored.isnan(), 0.0, scored)
        log_probabilities.copy_(scored)
    return decided


def sample(
    logits: Tensor,
    uniforms: Tensor | None,
    requests: Tensor,
    *,
    temperature: float | Tensor,
    stream: int,
    limits: Tensor | None = None,
) -> Tensor:
    """Sample a token from every row: `speculative.verification.verify.sample` on checked arguments.

    Returns:
        int64 [B]; -1 for a row at fault.
    """
    divisor, greedy = _temperatures(temperature, len(logits), logits.device)
    logits = limited(logits[:, None], divisor, limits)[:, 0]
    if stream == philox.COUPLED:
        given = None if uniforms is None else uniforms[:, None]
        token = _coupled(logits[:, None], divisor, requests, given)[:, 0]
    else:
        row = row_at(reduced(logits[:, None], divisor), 0)
        weights = probabilities(logits.float(), row, divisor)
        token, _ = races.in_two_rounds(weights, requests, stream, uniforms)
        token = torch.where(row.fault, -1, token)
    if isinstance(temperature, Tensor):
        token = torch.where(divides(temperature), token, -1)
    return token if greedy is None else torch.where(greedy, races.likeliest(logits), token)


def divides(temperature: Tensor) -> Tensor:
    """Whether temperatures are 0, which is greedy, or can divide logits, bool [B]."""
    whole = (temperature >= LEAST_TEMPERATURE) & (temperature <= LARGEST_TEMPERATURE)
    return (temperature == 0) | whole


def _temperatures(
    temperature: float | Tensor, batch: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """What every sequence's logits are divided by, float32 [B, 1], and which sequences are greedy,
    bool [B]; None: none is."""
    if not isinstance(temperature, Tensor):
        temperature = float(temperature)
        divisor = torch.full((batch, 1), temperature or 1.0, device=device)
        return divisor, None if temperature else torch.ones(batch, dtype=torch.bool, device=device)
    greedy = temperature == 0
    return torch.where(greedy, 1.0, temperature)[:, None], greedy


def _certain(draft_tokens: Tensor, like: Tensor) -> Tensor:
    """The logits [B, G, V] of a draft that was certain of its tokens."""
    shape = (*draft_tokens.shape, like.shape[-1])
    places = draft_tokens.clamp(0, like.shape[-1] - 1)[..., None]
    return like.new_full(shape, -torch.inf).scatter_(-1, places, 0.0)


# ---------------------------------------------------------------- the target's own tokens


def _coupled(
    target_logits: Tensor, temperature: Tensor, requests: Tensor, uniforms: Tensor | None
) -> Tensor:
    """The tokens int64 [B, G + 1] that the target takes by the noise, -1 for a row at fault."""
    own = []
    for t in range(target_logits.shape[1]):
        row = target_logits[:, t]
        if uniforms is None:
            own.append(races.coupled(row, temperature, requests, t))
        else:
            own.append(races.by_noise(row, temperature, uniforms[:, t]))
    return torch.stack(own, 1)


def _match(own: Tensor, draft: Draft) -> Tensor:
    """Accept draft tokens while they are the target's own int64 [B, G + 1], whose next one follows;
    gives what `verify` gives."""
    same = draft.within & (own[:, :-1] == draft.tokens) & ~draft.outside
    accepted = same.cumprod(-1).sum(-1)
    place = accepted.clamp(max=draft.tokens.shape[1] - 1)[:, None]
    outside = draft.outside.gather(1, place)[:, 0] & (accepted < draft.lengths)
    token = own.gather(1, accepted[:, None])[:, 0].masked_fill(outside, -1)
    fault = (token < 0) * TARGET_LOGITS
    return torch.stack([accepted, token, fault.masked_fill(outside, DRAFT_TOKEN)])


# ------------------------------------------------------------------- draft against target


def _decide(
    rule: Rule,
    target_logits: Tensor,
    draft_logits: Tensor,
    draft: Draft,
    uniforms: Tensor | None,
    requests: Tensor,
    temperature: Tensor,
) -> Tensor:
    """Accept draft tokens, then sample the token after them; gives what `verify` gives."""
    gamma = draft.tokens.shape[1]
    arithmetic = arithmetic_of(rule, target_logits, draft_logits, temperature)
    drawn = _accept_uniforms(requests, gamma) if uniforms is None else uniforms[:, :gamma]
    ratios, faults = _judged(arithmetic, target_logits, draft_logits, draft)
    if isinstance(rule, Block):
        assert isinstance(arithmetic, Softmaxes)
        kept = _longest_block(arithmetic, target_logits, draft_logits, draft, drawn, ratios, faults)
    else:
        kept = _in_order(draft, drawn, ratios, faults)

    # Make weights of the pair of rows that the next token comes from.
    complete = kept.accepted >= draft.lengths
    n, m = kept.accepted[:, None], kept.accepted.clamp(max=gamma - 1)[:, None]
    rows = _pick(target_logits, n), _pick(draft_logits, m)
    left = arithmetic.left(*rows, n, m, kept.share[:, None])
    bad_rows = left.bad_target * TARGET_LOGITS | (left.bad_draft & ~complete) * DRAFT_LOGITS
    fault = torch.where(kept.fault == 0, bad_rows, kept.fault)
    has_residual = ~complete & (left.residual > 0).any(-1)
    weights = torch.where(has_residual[:, None], left.residual.clamp(min=0), left.target)

    # Sample the next token, and let faults win over it.
    given = None if uniforms is None else uniforms[:, gamma:]
    token, any_arrived = races.in_two_rounds(weights, requests, philox.NEXT, given)
    fault = torch.where((fault == 0) & ~any_arrived, TARGET_LOGITS, fault)
    return torch.stack([kept.accepted, torch.where(fault == 0, token, -1), fault])


def _judged(
    arithmetic: Arithmetic, target_logits: Tensor, draft_logits: Tensor, draft: Draft
) -> tuple[Tensor, Tensor]:
    """What every draft token is accepted by, float64 [B, G], and its faults, int64 [B, G]."""
    gamma, vocabulary = draft_logits.shape[1:]
    places = draft.tokens.clamp(0, vocabulary - 1)[..., None]
    x_target = target_logits[:, :gamma].gather(-1, places)[..., 0]
    x_draft = draft_logits.gather(-1, places)[..., 0]
    ratios, faults = arithmetic.ratios(x_target, x_draft)
    ratios = ratios.masked_fill(x_target == -torch.inf, 0)
    return ratios, faults.masked_fill(draft.outside, DRAFT_TOKEN)


def _in_order(draft: Draft, uniforms: Tensor, ratios: Tensor, faults: Tensor) -> Kept:
    """Accept draft tokens up to the first that is rejected or at fault."""
    passed = draft.within & (faults == 0) & (uniforms.double() < ratios)
    count = passed.cumprod(-1).sum(-1)
    at = faults.gather(1, count.clamp(max=draft.tokens.shape[1] - 1)[:, None])[:, 0]
    fault = torch.where(count < draft.lengths, at, 0)
    return Kept(count, fault, torch.ones_like(ratios[:, 0]))


def _longest_block(
    arithmetic: Softmaxes,
    target_logits: Tensor,
    draft_logits: Tensor,
    draft: Draft,
    uniforms: Tensor,
    ratios: Tensor,
    faults: Tensor,
) -> Kept:
    """Accept the longest block that its number allows (`rules.Block`)."""
    share = torch.ones_like(ratios[:, 0])
    kept = Kept(torch.zeros_like(draft.lengths), torch.zeros_like(draft.lengths), share)
    for t in range(draft.tokens.shape[1]):
        share = (share * ratios[:, t]).clamp(max=1)  # of the block of t + 1 tokens
        chance = share
        if t + 1 < draft.tokens.shape[1]:
            place = torch.full_like(kept.accepted, t + 1)[:, None]
            rows = target_logits[:, t + 1].float(), draft_logits[:, t + 1].float()
            left = arithmetic.left(*rows, place, place, share[:, None])
            total = left.residual.clamp(min=0).double().sum(-1)
            ends = draft.lengths == t + 1
            chance = torch.where(ends | (share >= 1), share, total / (total + 1 - share))
        allowed = (uniforms[:, t].double() < chance) & (t < draft.lengths)
        kept = kept._replace(
            accepted=torch.where(allowed, t + 1, kept.accepted),
            share=torch.where(allowed, share, kept.share),
        )
    first = ((faults > 0) & draft.within).int().argmax(-1, keepdim=True)
    fault = (faults * draft.within).gather(1, first)[:, 0]
    return kept._replace(accepted=kept.accepted * (fault == 0), fault=fault)


def _pick(logits: Tensor, rows: Tensor) -> Tensor:
    """The row of every sequence that rows int64 [B, 1] names: float32 [B, V]."""
    return logits.gather(1, rows[..., None].expand(-1, -1, logits.shape[-1]))[:, 0].float()


def _accept_uniforms(requests: Tensor, gamma: int) -> Tensor:
    """The uniforms that decide gamma draft tokens of every request, float32 [B, gamma]."""
    seeds, numbers, positions = requests[..., None]
    positions = positions + torch.arange(gamma, device=requests.device)
    return philox.uniforms(seeds, numbers, positions, philox.ACCEPT, 1)[..., 0]
