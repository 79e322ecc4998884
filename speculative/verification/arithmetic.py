"""The arithmetic of every rule in PyTorch operators: what `csrc/arithmetic.h` is to the kernels.

The rules that accept in order have a class with two methods each: `ratios` gives what draft tokens
are accepted by, `left` the weights that the next token is sampled from. Temperatures are float32
[B, 1], one for every sequence.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from speculative.verification.rules import Calibrated, Rule, Sigmoid
from speculative.verification.status import DRAFT_LOGITS, TARGET_LOGITS

CHUNK = 8192
"""Logits of a row that are reduced at once; temporaries of this size stay in a CPU's cache."""


class Row(NamedTuple):
    """What rows of logits are reduced to: tensors [B, rows], or [B] for one row each."""

    maximum: Tensor
    """The largest logit, float32."""
    total: Tensor
    """The sum of exp((z - maximum) / temperature), float64."""
    fault: Tensor
    """Whether the row holds NaN or +inf or nothing finite, bool."""


def reduced(logits: Tensor, temperature: Tensor) -> Row:
    """Reduce every row of logits [B, rows, V] to what its softmax needs, chunk by chunk."""
    maximum = torch.full(logits.shape[:-1], -torch.inf, device=logits.device)
    total = torch.zeros_like(maximum, dtype=torch.float64)
    bad = torch.zeros_like(maximum, dtype=torch.bool)
    for chunk in logits.split(CHUNK, -1):
        z = chunk.float()
        bad |= _bad(z).any(-1)
        larger = torch.maximum(maximum, z.amax(-1))
        finite = larger.clamp(min=torch.finfo(torch.float32).min)  # -inf - -inf is no number
        # Bring the total so far to the new maximum, then add the chunk.
        total *= ((maximum - finite) / temperature).exp()
        total += ((z - finite[..., None]) / temperature[..., None]).exp().sum(-1)
        maximum = larger
    return Row(maximum, total, bad | (maximum == -torch.inf))


def row_at(rows: Row, index: Tensor | int) -> Row:
    """One row of every sequence: the same one, or the one that index int64 [B, 1] names."""
    if isinstance(index, int):
        return Row(*(value[:, index] for value in rows))
    return Row(*(value.gather(1, index)[:, 0] for value in rows))


def probabilities(z: Tensor, row: Row, temperature: Tensor) -> Tensor:
    """The softmax of logits z [B, V], of which `row` is what they were reduced to."""
    scaled = (z - row.maximum[:, None]) / temperature
    return scaled.exp() / row.total[:, None].float()


def log_probabilities_of(
    target_logits: Tensor, temperature: Tensor, draft_tokens: Tensor, decided: Tensor
) -> Tensor:
    """The log-probability of every emitted token, float32 [B, G + 1]; NaN where none is emitted.

    Args:
        target_logits: [B, G + 1, V], with -inf for what is left out.
        draft_tokens: int64 [B, G].
        decided: int64 [3, B], what was accepted and the next token.
    """
    accepted, following = decided[0, :, None], decided[1, :, None]
    places = torch.arange(target_logits.shape[1], device=target_logits.device)
    tokens = torch.cat([draft_tokens, following], 1).scatter(1, accepted, following)
    emitted = (places <= accepted) & (tokens >= 0)
    row = reduced(target_logits, temperature)
    z = target_logits.gather(-1, tokens.clamp(0, target_logits.shape[-1] - 1)[..., None])[..., 0]
    found = (z.double() - row.maximum) / temperature - row.total.log()
    return torch.where(emitted & ~row.fault, found, torch.nan).float()


class Left(NamedTuple):
    """What the next token may be sampled from: a pair of rows for every sequence."""

    target: Tensor
    """The target's weights [B, V], for the bonus token and where there is no residual."""
    residual: Tensor
    """The weights [B, V] after a rejection; what is negative counts as 0."""
    bad_target: Tensor
    """Whether the target's row holds NaN, +inf or, for a softmax, nothing finite: bool [B]."""
    bad_draft: Tensor
    """The same for the draft's row."""


class Softmaxes(NamedTuple):
    """The exact rules: softmax against softmax. Every row is reduced once, for acceptance and for
    the residual."""

    temperature: Tensor
    target: Row
    """All rows of the target, [B, G + 1]."""
    draft: Row
    """All rows of the draft, [B, G]."""

    def ratios(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What draft tokens are accepted by, from their logits z and y [B, G].

        Returns:
            The ratios p / q float64 [B, G], and the faults of their rows int64 [B, G].
        """
        p, q = Row(*(value[:, : z.shape[1]] for value in self.target)), self.draft
        difference = (z.double() - p.maximum) - (y.double() - q.maximum)
        ratios = (difference / self.temperature).exp() * q.total / p.total
        return ratios, p.fault * TARGET_LOGITS | q.fault * DRAFT_LOGITS

    def left(self, z: Tensor, y: Tensor, n: Tensor, m: Tensor, share: Tensor) -> Left:
        """What the target's rows z [B, V], which are its rows number n [B, 1], and the draft's rows
        y, number m, leave for the next token.

        Args:
            share: what multiplies the target's probabilities in the residual, float64 [B, 1].
        """
        p_of, q_of = row_at(self.target, n), row_at(self.draft, m)
        p = probabilities(z, p_of, self.temperature)
        q = probabilities(y, q_of, self.temperature)
        return Left(p, p * share.float() - q, p_of.fault, q_of.fault)


class _Sigmoid(NamedTuple):
    """The sigmoid rule: no row is reduced, since a sigmoid needs no sum."""

    temperature: Tensor
    limits: Sigmoid

    def ratios(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """As `Softmaxes.ratios`, with the faults of these logits alone."""
        return self._squash(z.double()) / self._squash(y.double()), _faults(z, y)

    def left(self, z: Tensor, y: Tensor, *_: Tensor) -> Left:
        """As `Softmaxes.left`, from the rows z and y alone."""
        return Left(self._squash(z), self._difference(z, y), _bad(z).any(-1), _bad(y).any(-1))

    def _squash(self, z: Tensor) -> Tensor:
        """The sigmoid of every logit, between the limits."""
        return self._argument(z).sigmoid()

    def _difference(self, z: Tensor, y: Tensor) -> Tensor:
        """squash(z) - squash(y) where that is positive, else 0.

        Between wide limits the two agree in four digits, so they must not be subtracted. Instead
        s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)).
        """
        gap = (z - y) / (self.temperature * (self.limits.beta - self.limits.alpha))
        gap = torch.where(z == -torch.inf, 0, gap).clamp(min=0)
        return self._squash(z) * (-self._argument(y)).sigmoid() * -torch.expm1(-gap)

    def _argument(self, z: Tensor) -> Tensor:
        """What the sigmoid is taken of."""
        alpha, beta = self.limits.alpha, self.limits.beta
        return (z / self.temperature - alpha) / (beta - alpha)


class _Calibrated(NamedTuple):
    """The calibrated rule: ratios are estimated, and only the rows of a rejection are reduced."""

    temperature: Tensor
    fit: Calibrated

    def ratios(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """As `Softmaxes.ratios`, with the faults of these logits alone."""
        return self._estimate(z.double(), y.double()), _faults(z, y)

    def left(self, z: Tensor, y: Tensor, *_: Tensor) -> Left:
        """As `Softmaxes.left`, from the rows z and y alone."""
        p_of = row_at(reduced(z[:, None], self.temperature), 0)
        q_of = row_at(reduced(y[:, None], self.temperature), 0)
        p = probabilities(z, p_of, self.temperature)
        q = probabilities(y, q_of, self.temperature)
        return Left(p, p - q * self._estimate(z, y), p_of.fault, q_of.fault)

    def _estimate(self, z: Tensor, y: Tensor) -> Tensor:
        """The estimate of p / q from logits z and y of the same shape, at most 1."""
        a = self.fit.target_slope / self.temperature
        b = self.fit.draft_slope / self.temperature
        x = self.fit.intercept + a * z + b * y
        return torch.nan_to_num(x, nan=0.0, posinf=0.0).clamp(max=0).exp()  # -inf stays below all


Arithmetic = Softmaxes | _Sigmoid | _Calibrated


def arithmetic_of(
    rule: Rule, target_logits: Tensor, draft_logits: Tensor, temperature: Tensor
) -> Arithmetic:
    """What computes the rule's ratios and weights on these logits."""
    if isinstance(rule, Sigmoid):
        return _Sigmoid(temperature, rule)
    if isinstance(rule, Calibrated):
        return _Calibrated(temperature, rule)
    target = reduced(target_logits, temperature)
    return Softmaxes(temperature, target, reduced(draft_logits, temperature))


def _bad(z: Tensor) -> Tensor:
    """Whether each logit is NaN or +inf, bool of the same shape."""
    return ~(z < torch.inf)


def _faults(target: Tensor, draft: Tensor) -> Tensor:
    """The status bits of pairs of logits, a target's and a draft's of the same shape."""
    return _bad(target) * TARGET_LOGITS | _bad(draft) * DRAFT_LOGITS
