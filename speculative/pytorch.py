"""Verification in PyTorch operators: any device, no compiler, no host synchronisation.

Softmax is never written out: a row is reduced, chunk by chunk, to its maximum and its sum of
exponentials, draft tokens are accepted on gathered logits, and only the row pair that the next
token comes from becomes weights. The kernels in `csrc` do the same, faster.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from speculative import philox
from speculative.status import DRAFT_LOGITS, DRAFT_TOKEN, LENGTH, TARGET_LOGITS

CHUNK = 8192
"""Logits of a row that are reduced at once; temporaries of this size stay in a CPU's cache."""


def verify(
    target_logits: Tensor,
    draft_logits: Tensor,
    draft_tokens: Tensor,
    lengths: Tensor | None,
    uniforms: Tensor | None,
    requests: Tensor,
    *,
    method: str,
    temperature: float,
    alpha: float,
    beta: float,
    calibration: Sequence[float],
) -> Tensor:
    """See `speculative.verify.verify`.

    Args:
        calibration: intercept, target_slope, draft_slope.
        requests: int64 [3, B]: seeds, request numbers, first positions (`philox.requests`).

    Returns:
        int64 [3, B]: accepted, next_token, status.
    """
    batch, gamma, vocabulary = draft_logits.shape
    if lengths is None:
        lengths = draft_tokens.new_full((batch,), gamma)
    outside = (draft_tokens < 0) | (draft_tokens >= vocabulary)
    places = draft_tokens.clamp(0, vocabulary - 1)[..., None]
    x_target = target_logits[:, :gamma].gather(-1, places)[..., 0]
    x_draft = draft_logits.gather(-1, places)[..., 0]
    squash = _Squash(temperature, alpha, beta)
    estimate = _Estimate(temperature, *calibration)
    if method == "exact":
        target, draft = _reduced(target_logits, temperature), _reduced(draft_logits, temperature)
        drafted = _Row(*(value[:, :gamma] for value in target))
        ratios = _softmax_ratios(x_target, x_draft, drafted, draft, temperature)
        faults = drafted.fault * TARGET_LOGITS | draft.fault * DRAFT_LOGITS
    else:
        z, y = x_target.double(), x_draft.double()
        ratios = squash(z) / squash(y) if method == "sigmoid" else estimate(z, y)
        faults = _bad(x_target) * TARGET_LOGITS | _bad(x_draft) * DRAFT_LOGITS
    faults = torch.where(outside, DRAFT_TOKEN, faults)

    drawn = _accept_uniforms(requests, gamma) if uniforms is None else uniforms[:, :gamma]
    within = torch.arange(gamma, device=lengths.device) < lengths[:, None]
    passed = within & (faults == 0) & (drawn.double() < ratios) & (x_target > -torch.inf)
    accepted = passed.cumprod(-1).sum(-1)

    complete = accepted >= lengths
    n, m = accepted[:, None], accepted.clamp(max=gamma - 1)[:, None]
    fault = torch.where(complete, 0, faults.gather(1, m)[:, 0])
    p_row, q_row = _pick(target_logits, n), _pick(draft_logits, m)
    if method == "sigmoid":
        bad_target, bad_draft = _bad(p_row).any(-1), _bad(q_row).any(-1)
        p, residual = squash(p_row), squash.difference(p_row, q_row)
    else:
        exact = method == "exact"
        p_of = _at(target, n) if exact else _at(_reduced(p_row[:, None], temperature), 0)
        q_of = _at(draft, m) if exact else _at(_reduced(q_row[:, None], temperature), 0)
        bad_target, bad_draft = p_of.fault, q_of.fault
        p = _probabilities(p_row, p_of, temperature)
        q = _probabilities(q_row, q_of, temperature)
        residual = p - q if exact else p - q * estimate(p_row, q_row)
    seen = bad_target * TARGET_LOGITS | (bad_draft & ~complete) * DRAFT_LOGITS
    fault |= seen * (fault == 0)
    leftover = ~complete & (residual > 0).any(-1)
    weights = torch.where(leftover[:, None], residual.clamp(min=0), p)

    token, found = _race(weights, requests, philox.NEXT, uniforms, gamma)
    fault = torch.where((fault == 0) & ~found, TARGET_LOGITS, fault)
    wrong = (lengths < 0) | (lengths > gamma)
    fault = torch.where(wrong, LENGTH, fault)
    return torch.stack([accepted * ~wrong, torch.where(fault == 0, token, -1), fault])


def sample(
    logits: Tensor, uniforms: Tensor | None, requests: Tensor, *, temperature: float, stream: int
) -> Tensor:
    """See `speculative.verify.sample`. Returns int64 [2, B]: token, status."""
    row = _at(_reduced(logits[:, None], temperature), 0)
    weights = _probabilities(logits.float(), row, temperature)
    token, _ = _race(weights, requests, stream, uniforms, 0)
    return torch.stack([torch.where(row.fault, -1, token), row.fault * TARGET_LOGITS])


class _Row(NamedTuple):
    """What remains of rows of logits: tensors [B, rows], or [B] for one row each."""

    maximum: Tensor
    """float32."""
    total: Tensor
    """float64: the sum of exp((z - maximum) / temperature)."""
    fault: Tensor
    """bool: NaN or +inf, or nothing finite."""


def _reduced(logits: Tensor, temperature: float) -> _Row:
    maximum = torch.full(logits.shape[:-1], -torch.inf, device=logits.device)
    total = torch.zeros_like(maximum, dtype=torch.float64)
    bad = torch.zeros_like(maximum, dtype=torch.bool)
    for chunk in logits.split(CHUNK, -1):
        z = chunk.float()
        bad |= _bad(z).any(-1)
        larger = torch.maximum(maximum, z.amax(-1))
        finite = larger.clamp(min=torch.finfo(torch.float32).min)  # -inf - -inf is no number
        total *= ((maximum - finite) / temperature).exp()
        total += ((z - finite[..., None]) / temperature).exp().sum(-1)
        maximum = larger
    return _Row(maximum, total, bad | (maximum == -torch.inf))


def _at(rows: _Row, index: Tensor | int) -> _Row:
    if isinstance(index, int):
        return _Row(*(value[:, index] for value in rows))
    return _Row(*(value.gather(1, index)[:, 0] for value in rows))


def _softmax_ratios(z: Tensor, y: Tensor, p: _Row, q: _Row, temperature: float) -> Tensor:
    """p / q at the draft tokens, float64 [B, G]."""
    difference = (z.double() - p.maximum) - (y.double() - q.maximum)
    return (difference / temperature).exp() * q.total / p.total


def _probabilities(z: Tensor, row: _Row, temperature: float) -> Tensor:
    scaled = (z - row.maximum[:, None]) / temperature
    return scaled.exp() / row.total[:, None].float()


class _Squash(NamedTuple):
    """sigmoid((z / temperature - alpha) / (beta - alpha)), arXiv 2406.11016, section 3.2."""

    temperature: float
    alpha: float
    beta: float

    def __call__(self, z: Tensor) -> Tensor:
        return self._argument(z).sigmoid()

    def difference(self, z: Tensor, y: Tensor) -> Tensor:
        """squash(z) - squash(y) where positive, else 0.

        Between large alpha and beta the two agree in four digits, so they must not be subtracted:
        s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)).
        """
        gap = (z - y) / (self.temperature * (self.beta - self.alpha))
        gap = torch.where(z == -torch.inf, 0, gap).clamp(min=0)
        return self(z) * (-self._argument(y)).sigmoid() * -torch.expm1(-gap)

    def _argument(self, z: Tensor) -> Tensor:
        return (z / self.temperature - self.alpha) / (self.beta - self.alpha)


class _Estimate(NamedTuple):
    """The calibrated p / q, at most 1 (`speculative.calibration`)."""

    temperature: float
    intercept: float
    target_slope: float
    draft_slope: float

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        a, b = self.target_slope / self.temperature, self.draft_slope / self.temperature
        x = self.intercept + a * z + b * y
        return torch.nan_to_num(x, nan=0.0, posinf=0.0).clamp(max=0).exp()  # -inf stays below all


def _pick(logits: Tensor, rows: Tensor) -> Tensor:
    """One row per sequence, float32 [B, V]."""
    return logits.gather(1, rows[..., None].expand(-1, -1, logits.shape[-1]))[:, 0].float()


def _bad(z: Tensor) -> Tensor:
    return ~(z < torch.inf)


def _accept_uniforms(requests: Tensor, gamma: int) -> Tensor:
    seeds, numbers, positions = requests[..., None]
    positions = positions + torch.arange(gamma, device=requests.device)
    return philox.uniforms(seeds, numbers, positions, philox.ACCEPT, 1)[..., 0]


def _race(
    weights: Tensor, requests: Tensor, stream: int, uniforms: Tensor | None, start: int
) -> tuple[Tensor, Tensor]:
    """The winner [B] of an exponential race, and whether there was anyone to win."""
    if uniforms is None:
        seeds, numbers, positions = requests
        drawn = philox.uniforms(seeds, numbers, positions, stream, weights.shape[-1])
    else:
        drawn = uniforms[:, start:]
    arrivals = -torch.log1p(-drawn.clamp(2.0**-33, philox.LARGEST))
    best = (weights / arrivals).max(-1)
    return best.indices, best.values > 0
