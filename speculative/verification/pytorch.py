"""Verification in PyTorch operators: any device, no compiler, no host synchronisation.

Softmax is never written out: a row is reduced, chunk by chunk, to its maximum and its sum of
exponentials, draft tokens are accepted on gathered logits, and only the row pair that the next
token comes from becomes weights. The kernels in `csrc` do the same, faster.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from speculative.verification import philox
from speculative.verification.rules import Calibrated, Exact, Rule, Sigmoid
from speculative.verification.status import (
    DRAFT_LOGITS,
    DRAFT_TOKEN,
    LENGTH,
    TARGET_LOGITS,
)

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
    rule: Rule,
    temperature: float,
) -> Tensor:
    """See `speculative.verification.verify.verify`.

    Args:
        requests: int64 [3, B]: seeds, request numbers, first positions (`philox.requests`).

    Returns:
        int64 [3, B]: accepted, next_token, status.
    """
    batch, gamma, _ = draft_logits.shape
    if lengths is None:
        lengths = draft_tokens.new_full((batch,), gamma)
    arithmetic = _arithmetic(rule, target_logits, draft_logits, temperature)
    drawn = _accept_uniforms(requests, gamma) if uniforms is None else uniforms[:, :gamma]
    accepted, faults = _accept(
        arithmetic, target_logits, draft_logits, draft_tokens, lengths, drawn
    )

    complete = accepted >= lengths
    n, m = accepted[:, None], accepted.clamp(max=gamma - 1)[:, None]
    fault = torch.where(complete, 0, faults.gather(1, m)[:, 0])
    left = arithmetic.left(_pick(target_logits, n), _pick(draft_logits, m), n, m)
    seen = left.bad_target * TARGET_LOGITS | (left.bad_draft & ~complete) * DRAFT_LOGITS
    fault |= seen * (fault == 0)
    rejected = ~complete & (left.residual > 0).any(-1)
    weights = torch.where(rejected[:, None], left.residual.clamp(min=0), left.target)

    token, found = _race(weights, requests, philox.NEXT, uniforms, gamma)
    fault = torch.where((fault == 0) & ~found, TARGET_LOGITS, fault)
    wrong = (lengths < 0) | (lengths > gamma)
    fault = torch.where(wrong, LENGTH, fault)
    return torch.stack([accepted * ~wrong, torch.where(fault == 0, token, -1), fault])


def sample(
    logits: Tensor, uniforms: Tensor | None, requests: Tensor, *, temperature: float, stream: int
) -> Tensor:
    """See `speculative.verification.verify.sample`. Returns int64 [2, B]: token, status."""
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


def _probabilities(z: Tensor, row: _Row, temperature: float) -> Tensor:
    scaled = (z - row.maximum[:, None]) / temperature
    return scaled.exp() / row.total[:, None].float()


class _Left(NamedTuple):
    """What the next token may come from: one row pair per sequence."""

    target: Tensor
    """Weights [B, V] after the last draft token."""
    residual: Tensor
    """Weights [B, V] after a rejection where positive."""
    bad_target: Tensor
    """bool [B]: NaN, +inf or, where a softmax is needed, nothing finite."""
    bad_draft: Tensor


class _Exact(NamedTuple):
    """Softmax against softmax, of rows that are reduced once for both questions."""

    temperature: float
    target: _Row
    """[B, G + 1]."""
    draft: _Row
    """[B, G]."""

    def ratios(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """p / q float64 [B, G] of draft tokens with these logits, and faults of their rows."""
        p, q = _Row(*(value[:, : z.shape[1]] for value in self.target)), self.draft
        difference = (z.double() - p.maximum) - (y.double() - q.maximum)
        ratios = (difference / self.temperature).exp() * q.total / p.total
        return ratios, p.fault * TARGET_LOGITS | q.fault * DRAFT_LOGITS

    def left(self, z: Tensor, y: Tensor, n: Tensor, m: Tensor) -> _Left:
        """Of the target's rows z, numbered n [B, 1], and the draft's y, numbered m."""
        p_of, q_of = _at(self.target, n), _at(self.draft, m)
        p = _probabilities(z, p_of, self.temperature)
        q = _probabilities(y, q_of, self.temperature)
        return _Left(p, p - q, p_of.fault, q_of.fault)


class _Sigmoid(NamedTuple):
    """sigmoid((z / temperature - alpha) / (beta - alpha)), arXiv 2406.11016, section 3.2."""

    temperature: float
    limits: Sigmoid

    def ratios(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """As `_Exact.ratios`; faults of these logits alone."""
        return self._squash(z.double()) / self._squash(y.double()), _faults(z, y)

    def left(self, z: Tensor, y: Tensor, *_: Tensor) -> _Left:
        """As `_Exact.left`."""
        return _Left(self._squash(z), self._difference(z, y), _bad(z).any(-1), _bad(y).any(-1))

    def _squash(self, z: Tensor) -> Tensor:
        return self._argument(z).sigmoid()

    def _difference(self, z: Tensor, y: Tensor) -> Tensor:
        """squash(z) - squash(y) where positive, else 0.

        Between large alpha and beta the two agree in four digits, so they must not be subtracted:
        s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)).
        """
        gap = (z - y) / (self.temperature * (self.limits.beta - self.limits.alpha))
        gap = torch.where(z == -torch.inf, 0, gap).clamp(min=0)
        return self._squash(z) * (-self._argument(y)).sigmoid() * -torch.expm1(-gap)

    def _argument(self, z: Tensor) -> Tensor:
        alpha, beta = self.limits.alpha, self.limits.beta
        return (z / self.temperature - alpha) / (beta - alpha)


class _Calibrated(NamedTuple):
    """p / q estimated from two logits (`speculative.verification.calibration`)."""

    temperature: float
    fit: Calibrated

    def ratios(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """As `_Exact.ratios`; faults of these logits alone."""
        return self._estimate(z.double(), y.double()), _faults(z, y)

    def left(self, z: Tensor, y: Tensor, *_: Tensor) -> _Left:
        """As `_Exact.left`."""
        p_of = _at(_reduced(z[:, None], self.temperature), 0)
        q_of = _at(_reduced(y[:, None], self.temperature), 0)
        p = _probabilities(z, p_of, self.temperature)
        q = _probabilities(y, q_of, self.temperature)
        return _Left(p, p - q * self._estimate(z, y), p_of.fault, q_of.fault)

    def _estimate(self, z: Tensor, y: Tensor) -> Tensor:
        """At most 1."""
        a = self.fit.target_slope / self.temperature
        b = self.fit.draft_slope / self.temperature
        x = self.fit.intercept + a * z + b * y
        return torch.nan_to_num(x, nan=0.0, posinf=0.0).clamp(max=0).exp()  # -inf stays below all


_Arithmetic = _Exact | _Sigmoid | _Calibrated


def _arithmetic(
    rule: Rule, target_logits: Tensor, draft_logits: Tensor, temperature: float
) -> _Arithmetic:
    """What computes the rule's ratios and weights on these logits."""
    match rule:
        case Exact():
            target = _reduced(target_logits, temperature)
            return _Exact(temperature, target, _reduced(draft_logits, temperature))
        case Sigmoid():
            return _Sigmoid(temperature, rule)
        case Calibrated():
            return _Calibrated(temperature, rule)


def _accept(
    arithmetic: _Arithmetic,
    target_logits: Tensor,
    draft_logits: Tensor,
    draft_tokens: Tensor,
    lengths: Tensor,
    uniforms: Tensor,
) -> tuple[Tensor, Tensor]:
    """How many draft tokens are accepted [B], and what is wrong with each [B, G]."""
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
    """One row per sequence, float32 [B, V]."""
    return logits.gather(1, rows[..., None].expand(-1, -1, logits.shape[-1]))[:, 0].float()


def _bad(z: Tensor) -> Tensor:
    return ~(z < torch.inf)


def _faults(target: Tensor, draft: Tensor) -> Tensor:
    return _bad(target) * TARGET_LOGITS | _bad(draft) * DRAFT_LOGITS


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
