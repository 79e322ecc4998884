"""What verification means: float64, one sequence at a time. All tests compare against this file.

Draft token x_t is accepted while u_t < a_t(x_t), where u_t is a uniform random number and a_t(x_t)
is the rule's acceptance. At the first rejection n the next token is sampled from the rule's
residual at position n; after the last draft token it is sampled from the rule's weights of the
target's next row, as the bonus token. `speculative.verification.rules` has a table of the rules.

`Block` accepts the longest block instead, and `Coupled`, like greedy decoding, accepts what the
target takes itself.

Sampling from weights w is an exponential race: token i arrives at time -log(1 - v_i) / w_i for a
uniform v_i, and the first token to arrive wins (`speculative.verification.races` says why). Groups
of `philox.GROUP` tokens race first, by their sums of weights; then the tokens of the winner.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from speculative.verification import philox
from speculative.verification.filters import Filters
from speculative.verification.reference_filters import ROUNDING, filtered
from speculative.verification.rules import EXACT, Block, Calibrated, Coupled, Exact, Rule, Sigmoid
from speculative.verification.status import DRAFT_LOGITS, DRAFT_TOKEN, TARGET_LOGITS

Float = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


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
    draft_logits: npt.ArrayLike | None,
    draft_tokens: npt.ArrayLike,
    uniforms: npt.ArrayLike,
    *,
    rule: Rule = EXACT,
    temperature: float = 1.0,
    filters: Filters | None = None,
) -> Decision:
    """Verify the draft of one sequence.

    Args:
        target_logits: [G + 1, V].
        draft_logits: [G, V]. A shorter draft of the same sequence has fewer rows. None: the draft
            proposed its tokens for certain.
        draft_tokens: int [G].
        uniforms: [G + V + groups]: G for acceptance, then one per token of the vocabulary and one
            per group. For `Coupled` [G + 1, V].
        rule, temperature, filters: see `speculative.verification.verify.verify`; the filters are
            numbers here.
    """
    target, u = np.asarray(target_logits, np.float64), np.asarray(uniforms, np.float64)
    tokens = np.asarray(draft_tokens, np.int64)
    if temperature == 0:
        return _match(target, tokens, None)
    if draft_logits is None:
        draft = np.where(np.arange(target.shape[-1]) == tokens[:, None], 0.0, -np.inf)
    else:
        draft = np.asarray(draft_logits, np.float64)
    target, draft = target / temperature, draft / temperature
    if filters is None:
        return _decided(target, draft, tokens, u, rule)
    # The decision is a tie where it depends on the rounding of what a filter compares.
    decisions = []
    top_k, top_p, min_p = map(float, filters.numbers)
    for shift in (1, 1 - ROUNDING, 1 + ROUNDING):
        limits = top_k, top_p * shift if top_p < 1 else 1.0, min_p * shift
        rows = filtered(target, *limits)
        drafted = draft
        if filters.of_draft and draft_logits is not None:
            drafted = filtered(draft, *limits)
        decisions.append(_decided(rows, drafted, tokens, u, rule))
    alike = all(decision[:3] == decisions[0][:3] for decision in decisions)
    margin = min(decision.margin for decision in decisions) if alike else 0.0
    return decisions[0]._replace(margin=margin)


def _decided(target: Float, draft: Float, tokens: Ints, u: Float, rule: Rule) -> Decision:
    """The decision of a rule on rows that temperature and filters have been applied to."""
    if isinstance(rule, Coupled):
        return _match(target, tokens, u)
    if isinstance(rule, Block):
        return _longest_block(target, draft, tokens, u)
    return _in_order(target, draft, tokens, u, rule)


def _in_order(target: Float, draft: Float, tokens: Ints, u: Float, rule: Rule) -> Decision:
    """Accept draft tokens up to the first rejection."""
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


def _longest_block(target: Float, draft: Float, tokens: Ints, u: Float) -> Decision:
    """Accept the longest block that its number allows (arXiv 2403.10444)."""
    gamma, vocabulary = len(tokens), target.shape[-1]
    share, margin = 1.0, np.inf
    shares, accepted = [1.0], 0
    for t, x in enumerate(tokens):
        if not 0 <= x < vocabulary:
            return Decision(0, -1, DRAFT_TOKEN, margin)
        fault = _faults(target[t], draft[t], softmax=True)
        if fault:
            return Decision(0, -1, fault, margin)
        p, q = softmax(target[t]), softmax(draft[t])
        share = min(share * p[x] / q[x], 1.0) if p[x] > 0 else 0.0
        shares.append(share)
    for i in range(1, gamma + 1):
        share = chance = shares[i]
        if i < gamma and share < 1:
            left = np.maximum(share * softmax(target[i]) - softmax(draft[i]), 0).sum()
            chance = left / (left + 1 - share)
            margin = 0.0 if 0 < left < RESOLVED else margin
        margin = min(margin, abs(u[i - 1] - chance) / max(u[i - 1], chance))
        if u[i - 1] < chance:
            accepted = i
    if accepted == gamma:
        return _sample(EXACT, gamma, target[gamma], None, u[gamma:], margin)
    row = target[accepted], draft[accepted]
    return _sample(EXACT, accepted, *row, u[gamma:], margin, shares[accepted])


def _match(target: Float, tokens: Ints, uniforms: Float | None) -> Decision:
    """Accept what the target takes itself: with noise [G + 1, V], or its likeliest tokens."""
    margin = np.inf
    for t, row in enumerate(target):
        drafted = tokens[t] if t < len(tokens) else -1
        if t < len(tokens) and not 0 <= drafted < len(row):
            return Decision(t, -1, DRAFT_TOKEN, margin)
        fault = _faults(row, None, softmax=True)
        if fault:
            return Decision(t, -1, fault, margin)
        token, ahead = int(row.argmax()), np.inf
        if uniforms is not None:
            token, ahead = _first(softmax(row), uniforms[t])
        margin = min(margin, ahead)
        if token != drafted:
            return Decision(t, token, 0, margin)
    raise AssertionError("the last row has no draft token, so it differs")


def _sample(
    rule: Rule,
    accepted: int,
    target: Float,
    draft: Float | None,
    uniforms: Float,
    margin: float,
    share: float = 1.0,
) -> Decision:
    """The decision on the token after `accepted` draft tokens: from the residual of the target's
    and the draft's row [V], or without a draft's row from the target's weights."""
    has_softmax = not isinstance(rule, Sigmoid)
    fault = _faults(target, draft, has_softmax)
    if fault:
        return Decision(accepted, -1, fault, margin)
    if draft is None:
        w = weights(rule, target)
    elif share < 1:
        w = np.maximum(0, share * softmax(target) - softmax(draft))
    else:
        w = residual(rule, target, draft)
    if has_softmax and draft is not None and w.sum() < RESOLVED:
        margin = 0.0
    if not w.any():  # nothing is left over: p and q agree to the last bit
        w = weights(rule, target)
    if not w.any():
        return Decision(accepted, -1, TARGET_LOGITS, margin)
    token, race = race_winner(w, uniforms)
    return Decision(accepted, token, 0, min(margin, race))


def race_winner(weights: Float, uniforms: Float) -> tuple[int, float]:
    """The winner of the race, and by how much it was ahead, relative.

    Args:
        weights: [V], of which one at least is above 0.
        uniforms: [V + groups], a number from 0 to 1 for every token and every group.
    """
    vocabulary, size = len(weights), philox.GROUP
    sums = np.add.reduceat(weights, np.arange(0, vocabulary, size))
    group, ahead = _first(sums, uniforms[vocabulary:])
    members = slice(group * size, min((group + 1) * size, vocabulary))
    token, of_group = _first(weights[members], uniforms[:vocabulary][members])
    return group * size + token, min(ahead, of_group)


def _first(weights: Float, uniforms: Float) -> tuple[int, float]:
    """Which of these weights arrives first, and by how much it is ahead of the second, relative."""
    rates = weights / -np.log1p(-np.clip(uniforms, 2.0**-33, 1 - 2.0**-24))
    winner = int(rates.argmax())
    second = np.delete(rates, winner).max(initial=0.0)
    return winner, float(1 - second / rates[winner])


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
