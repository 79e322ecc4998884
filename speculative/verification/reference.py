"""What verification means: float64, one sequence at a time. All tests compare against this file.

Draft token x_t is accepted while u_t < a_t(x_t), where u_t is a uniform random number and a_t(x_t)
is the rule's acceptance. At the first rejection n the next token is sampled from the rule's
residual at position n; after the last draft token it is sampled from the rule's weights of the
target's next row, as the bonus token. `speculative.verification.rules` has a table of the rules.

Sampling from weights w is an exponential race: token i arrives at time -log(1 - v_i) / w_i for a
uniform v_i, and the first token to arrive wins (`speculative.verification.pytorch` says why).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from speculative.verification.rules import EXACT, Calibrated, Exact, Rule, Sigmoid
from speculative.verification.status import DRAFT_LOGITS, DRAFT_TOKEN, TARGET_LOGITS

Float = npt.NDArray[np.float64]


RESOLVED = 1e-6
"""A residual with less probability than this is rounding in float32, where it may be nothing."""


class Decision(NamedTuple):
    """The outcome of one sequence."""

    accepted: int
    next_token: int
    """-1 if `status` is not 0."""
    status: int
    margin: float
    """How near the closest decision was to another outcome, relative; 0 is a tie."""


def weights(rule: Rule, z: Float) -> Float:
    """The weights of a row's tokens: the softmax, or for the sigmoid rule the sigmoid.

    Args:
        z: logits [..., V], divided by the temperature.
    """
    if isinstance(rule, Sigmoid):
        return sigmoid((z - rule.alpha) / (rule.beta - rule.alpha))
    return softmax(z)


def acceptance(rule: Rule, z: Float, y: Float) -> tuple[Float, Float]:
    """The probability that a draft token is accepted, for every token of the vocabulary.

    Args:
        z, y: logits of the target and of the draft [..., V], divided by the temperature.

    Returns:
        Two arrays [..., V]: the probability is the first over the second, at most 1.
    """
    if isinstance(rule, Calibrated):
        return estimate(rule, z, y) * (z > -np.inf), np.ones_like(z)
    return weights(rule, z), weights(rule, y)


def residual(rule: Rule, z: Float, y: Float) -> Float:
    """The weights that the token after a rejection is sampled from; arguments as in `acceptance`.

    They are what the target's weights have left when the accepted share of the draft's is taken
    away. All are 0 where nothing is left.
    """
    taken = weights(rule, y)
    if isinstance(rule, Calibrated):
        taken = taken * estimate(rule, z, y)
    return np.maximum(0, weights(rule, z) - taken)


def estimate(rule: Calibrated, z: npt.ArrayLike, y: npt.ArrayLike) -> Float:
    """The calibrated estimate of p(x) / q(x), at most 1, from logits that temperature has divided.

    Where -inf meets -inf, or a slope of 0, the estimate is 1.
    """
    with np.errstate(invalid="ignore"):
        x = rule.intercept + rule.target_slope * np.asarray(z) + rule.draft_slope * np.asarray(y)
    return np.asarray(np.exp(np.minimum(np.where(np.isnan(x), 0.0, x), 0.0)))


def verify(
    target_logits: npt.ArrayLike,
    draft_logits: npt.ArrayLike,
    draft_tokens: npt.ArrayLike,
    uniforms: npt.ArrayLike,
    *,
    rule: Rule = EXACT,
    temperature: float = 1.0,
) -> Decision:
    """Verify the draft of one sequence.

    Args:
        target_logits: [G + 1, V].
        draft_logits: [G, V]. A shorter draft of the same sequence has fewer rows.
        draft_tokens: int [G].
        uniforms: [G + V]: G for acceptance, then one per token of the vocabulary.
        rule, temperature: see `speculative.verification.verify.verify`.
    """
    target, draft, u = (np.asarray(x, np.float64) for x in (target_logits, draft_logits, uniforms))
    tokens = np.asarray(draft_tokens, np.int64)
    target, draft = target / temperature, draft / temperature
    gamma, vocabulary = len(tokens), target.shape[-1]
    exact = isinstance(rule, Exact)

    margin = np.inf
    for t, x in enumerate(tokens):
        if not 0 <= x < vocabulary:
            return Decision(t, -1, DRAFT_TOKEN, margin)
        # Approximations look at the two logits of x alone, so they see no fault elsewhere.
        seen = slice(None) if exact else slice(x, x + 1)
        fault = _faults(target[t, seen], draft[t, seen], softmax=exact)
        if fault:
            return Decision(t, -1, fault, margin)
        p, q = (values[x] for values in acceptance(rule, target[t], draft[t]))
        margin = min(margin, abs(u[t] * q - p) / max(u[t] * q, p, np.finfo(float).tiny))
        if not u[t] * q < p:
            return _sample(rule, t, target[t], draft[t], u[gamma:], margin)
    return _sample(rule, gamma, target[gamma], None, u[gamma:], margin)


def _sample(
    rule: Rule, accepted: int, target: Float, draft: Float | None, uniforms: Float, margin: float
) -> Decision:
    """The decision on the token after `accepted` draft tokens: from the residual of the target's
    and the draft's row [V], or without a draft's row from the target's weights."""
    has_softmax = not isinstance(rule, Sigmoid)
    fault = _faults(target, draft, has_softmax)
    if fault:
        return Decision(accepted, -1, fault, margin)
    w = weights(rule, target) if draft is None else residual(rule, target, draft)
    if has_softmax and draft is not None and w.sum() < RESOLVED:
        margin = 0.0
    if not w.any():  # nothing is left over: p and q agree to the last bit
        w = weights(rule, target)
    if not w.any():
        return Decision(accepted, -1, TARGET_LOGITS, margin)
    token, race = race_winner(w, uniforms)
    return Decision(accepted, token, 0, min(margin, race))


def race_winner(weights: Float, uniforms: Float) -> tuple[int, float]:
    """The winner of the exponential race, and by how much it was ahead, relative.

    Args:
        weights: [V], of which one at least is above 0.
        uniforms: [V], a number from 0 to 1 for every token.
    """
    rates = weights / -np.log1p(-np.clip(uniforms, 2.0**-33, 1 - 2.0**-24))
    token = int(rates.argmax())
    second = np.delete(rates, token).max(initial=0.0)
    return token, float(1 - second / rates[token])


def _faults(target: Float, draft: Float | None, softmax: bool) -> int:
    """The status bits of logits that hold NaN or +inf or, for a softmax, nothing finite.

    No draft: its bit stays 0.
    """

    def bad(z: Float) -> bool:
        return bool((~(z < np.inf)).any() or (softmax and (z == -np.inf).all()))

    status = TARGET_LOGITS if bad(target) else 0
    return status | (DRAFT_LOGITS if draft is not None and bad(draft) else 0)


def softmax(z: Float) -> Float:
    """Softmax over the last dimension of z [..., V]."""
    e = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def sigmoid(x: Float) -> Float:
    """The sigmoid of every element of x."""
    with np.errstate(over="ignore"):  # to infinity, rightly
        return np.asarray(1 / (1 + np.exp(-x)))
