"""Verification in PyTorch operators: for any device, and where there is no compiler.

Softmax is never written out. Each row is reduced, chunk by chunk, to its maximum and its sum of
exponentials; draft tokens are accepted on gathered logits; and only the pair of rows that the next
token comes from becomes weights. The kernels in `csrc` do the same, faster.

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
"""

import torch
from torch import Tensor

from speculative.verification import philox
from speculative.verification.arithmetic import (
    Arithmetic,
    arithmetic_of,
    probabilities,
    reduced,
    row_at,
)
from speculative.verification.rules import Rule
from speculative.verification.status import DRAFT_LOGITS, DRAFT_TOKEN, LENGTH, TARGET_LOGITS


def verify(
    target_logits: Tensor,
    draft_logits: Tensor,
    draft_tokens: Tensor,
    lengths: Tensor | None,
    uniforms: Tensor | None,
    requests: Tensor,
    *,
    rule: Rule,
    temperature: float,
) -> Tensor:
    """Verify draft tokens: `speculative.verification.verify.verify` on checked arguments.

    Args:
        requests: int64 [3, B]: seeds, request numbers, first positions (`philox.requests`).

    Returns:
        int64 [3, B]: accepted, next_token, status.
    """
    batch, gamma, _ = draft_logits.shape
    if lengths is None:
        lengths = draft_tokens.new_full((batch,), gamma)
    arithmetic = arithmetic_of(rule, target_logits, draft_logits, temperature)

    # Accept draft tokens up to the first rejection.
    drawn = _accept_uniforms(requests, gamma) if uniforms is None else uniforms[:, :gamma]
    accepted, faults = _accept(
        arithmetic, target_logits, draft_logits, draft_tokens, lengths, drawn
    )

    # Make weights of the pair of rows that the next token comes from.
    complete = accepted >= lengths
    n, m = accepted[:, None], accepted.clamp(max=gamma - 1)[:, None]
    fault = torch.where(complete, 0, faults.gather(1, m)[:, 0])
    left = arithmetic.left(_pick(target_logits, n), _pick(draft_logits, m), n, m)
    bad_rows = left.bad_target * TARGET_LOGITS | (left.bad_draft & ~complete) * DRAFT_LOGITS
    fault |= bad_rows * (fault == 0)
    has_residual = ~complete & (left.residual > 0).any(-1)
    weights = torch.where(has_residual[:, None], left.residual.clamp(min=0), left.target)

    # Sample the next token, and let faults win over it.
    token, any_arrived = _race(weights, requests, philox.NEXT, uniforms, gamma)
    fault = torch.where((fault == 0) & ~any_arrived, TARGET_LOGITS, fault)
    wrong = (lengths < 0) | (lengths > gamma)
    fault = torch.where(wrong, LENGTH, fault)
    return torch.stack([accepted * ~wrong, torch.where(fault == 0, token, -1), fault])


def sample(
    logits: Tensor, uniforms: Tensor | None, requests: Tensor, *, temperature: float, stream: int
) -> Tensor:
    """Sample a token from every row: `speculative.verification.verify.sample` on checked arguments.

    Returns:
        int64 [B]; -1 for a row at fault.
    """
    row = row_at(reduced(logits[:, None], temperature), 0)
    weights = probabilities(logits.float(), row, temperature)
    token, _ = _race(weights, requests, stream, uniforms, 0)
    return torch.where(row.fault, -1, token)


def _accept(
    arithmetic: Arithmetic,
    target_logits: Tensor,
    draft_logits: Tensor,
    draft_tokens: Tensor,
    lengths: Tensor,
    uniforms: Tensor,
) -> tuple[Tensor, Tensor]:
    """How many draft tokens are accepted, int64 [B], and the faults of each, int64 [B, G]."""
    _, gamma, vocabulary = draft_logits.shape
    outside = (draft_tokens < 0) | (draft_tokens >= vocabulary)
    places = draft_tokens.clamp(0, vocabulary - 1)[..., None]
    x_target = target_logits[:, :gamma].gather(-1, places)[..., 0]
    x_draft = draft_logits.gather(-1, places)[..., 0]
    ratios, faults = arithmetic.ratios(x_target, x_draft)
    faults = torch.where(outside, DRAFT_TOKEN, faults)
    within = torch.arange(gamma, device=lengths.device) < lengths[:, None]
    passed = within & (faults == 0) & (uniforms.double() < ratios) & (x_target > -torch.inf)
    return passed.cumprod(-1).sum(-1), faults


def _pick(logits: Tensor, rows: Tensor) -> Tensor:
    """The row of every sequence that rows int64 [B, 1] names: float32 [B, V]."""
    return logits.gather(1, rows[..., None].expand(-1, -1, logits.shape[-1]))[:, 0].float()


def _accept_uniforms(requests: Tensor, gamma: int) -> Tensor:
    """The uniforms that decide gamma draft tokens of every request, float32 [B, gamma]."""
    seeds, numbers, positions = requests[..., None]
    positions = positions + torch.arange(gamma, device=requests.device)
    return philox.uniforms(seeds, numbers, positions, philox.ACCEPT, 1)[..., 0]


def _race(
    weights: Tensor, requests: Tensor, stream: int, uniforms: Tensor | None, start: int
) -> tuple[Tensor, Tensor]:
    """Sample a token from weights [B, V] by an exponential race.

    Args:
        uniforms: float32 [B, start + V], of which those from `start` on are used; None: they are
            counted from `requests` and `stream`.

    Returns:
        The winner int64 [B], and whether any token arrived, bool [B].
    """
    if uniforms is None:
        seeds, numbers, positions = requests
        drawn = philox.uniforms(seeds, numbers, positions, stream, weights.shape[-1])
    else:
        drawn = uniforms[:, start:]
    arrivals = -torch.log1p(-drawn.clamp(2.0**-33, philox.LARGEST))
    best = (weights / arrivals).max(-1)  # the largest rate is the earliest time
    return best.indices, best.values > 0
