"""What verification means: float64, one sequence at a time. The truth for all tests.

Exact (Leviathan et al. 2023; arXiv 2406.11016, section 2): with p_t and q_t the softmax of target
and draft logits, accept draft token x_t while u_t < p_t(x_t) / q_t(x_t). At the first rejection n
sample from max(0, p_n - q_n); after the last draft token, from the next p. Sigmoid (section 3.2):
the same with p and q replaced by sigmoid((z - alpha) / (beta - alpha)), which are no distributions:
an approximation. Calibrated: p_t(x_t) / q_t(x_t) is estimated from the two logits of x_t alone
(`speculative.verification.calibration`); a rejection samples from max(0, p_n - q_n min(1,
estimate)). An approximation too: right where the estimate is not above the ratio.

Sampling from weights w is an exponential race: token i arrives at time -log(1 - v_i) / w_i, the
first one wins.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from speculative.verification.calibration import Calibration
from speculative.verification.status import DRAFT_LOGITS, DRAFT_TOKEN, TARGET_LOGITS

Float = npt.NDArray[np.float64]


RESOLVED = 1e-6
"""A residual of less probability is rounding in float32: it may as well be nothing."""


class Decision(NamedTuple):
    """The outcome of one sequence."""

    accepted: int
    next_token: int
    """-1 if `status` is not 0."""
    status: int
    margin: float
    """How near the closest decision was to another outcome, relative; 0 is a tie."""


def verify(
    target_logits: npt.ArrayLike,
    draft_logits: npt.ArrayLike,
    draft_tokens: npt.ArrayLike,
    uniforms: npt.ArrayLike,
    *,
    method: str = "exact",
    temperature: float = 1.0,
    alpha: float = -1e4,
    beta: float = 1e4,
    calibration: Calibration | None = None,
) -> Decision:
    """Verify the draft of one sequence.

    Args:
        target_logits: [G + 1, V].
        draft_logits: [G, V]. A shorter draft of the same sequence has fewer rows.
        draft_tokens: int [G].
        uniforms: [G + V]: G for acceptance, then one per token of the vocabulary.
        method: "exact", "sigmoid" or "calibrated".
        temperature, alpha, beta, calibration: see `speculative.verification.verify.verify`.
    """
    target, draft, u = (np.asarray(x, np.float64) for x in (target_logits, draft_logits, uniforms))
    tokens = np.asarray(draft_tokens, np.int64)
    target, draft = target / temperature, draft / temperature
    gamma, vocabulary = len(tokens), target.shape[-1]
    exact, with_softmax = method == "exact", method != "sigmoid"

    def weights(z: Float) -> Float:
        return softmax(z) if with_softmax else sigmoid((z - alpha) / (beta - alpha))

    def kept(z: Float, y: Float) -> Float:
        """What acceptance takes of the draft's weights."""
        return calibration.ratio(z, y) if calibration else np.ones_like(z)

    margin = np.inf
    for t, x in enumerate(tokens):
        if not 0 <= x < vocabulary:
            return Decision(t, -1, DRAFT_TOKEN, margin)
        # the others look at the two logits of x alone, and so see no fault elsewhere in the rows
        seen = slice(None) if exact else slice(x, x + 1)
        fault = _faults(target[t, seen], draft[t, seen], exact)
        if fault:
            return Decision(t, -1, fault, margin)
        if calibration:
            p, q = calibration.ratio(target[t, x], draft[t, x]) * (target[t, x] > -np.inf), 1.0
        else:
            p, q = weights(target[t])[x], weights(draft[t])[x]
        margin = min(margin, abs(u[t] * q - p) / max(u[t] * q, p, np.finfo(float).tiny))
        if not u[t] * q < p:
            left = target[t], draft[t]
            return _sample(t, *left, weights, kept, u[gamma:], margin, with_softmax)
    return _sample(gamma, target[gamma], None, weights, kept, u[gamma:], margin, with_softmax)


def _sample(
    n: int,
    target: Float,
    draft: Float | None,
    weights: Callable[[Float], Float],
    kept: Callable[[Float, Float], Float],
    uniforms: Float,
    margin: float,
    softmax: bool,
) -> Decision:
    fault = _faults(target, draft, softmax)
    if fault:
        return Decision(n, -1, fault, margin)
    p = weights(target)
    w = p if draft is None else np.maximum(0, p - weights(draft) * kept(target, draft))
    if softmax and draft is not None and w.sum() < RESOLVED:
        margin = 0.0
    if not w.any():  # nothing left over: p and q agree to the last bit
        w = p
    if not w.any():
        return Decision(n, -1, TARGET_LOGITS, margin)
    token, race = race_winner(w, uniforms)
    return Decision(n, token, 0, min(margin, race))


def race_winner(weights: Float, uniforms: Float) -> tuple[int, float]:
    """The winner of the exponential race, and by how much it was ahead, relative."""
    rates = weights / -np.log1p(-np.clip(uniforms, 2.0**-33, 1 - 2.0**-24))
    token = int(rates.argmax())
    second = np.delete(rates, token).max(initial=0.0)
    return token, float(1 - second / rates[token])


def _faults(target: Float, draft: Float | None, softmax: bool) -> int:
    """Bits for rows with NaN or +inf or, where a softmax is needed, nothing finite."""

    def bad(z: Float) -> bool:
        return bool((~(z < np.inf)).any() or (softmax and (z == -np.inf).all()))

    found = TARGET_LOGITS if bad(target) else 0
    return found | (DRAFT_LOGITS if draft is not None and bad(draft) else 0)


def softmax(z: Float) -> Float:
    """Over the last dimension."""
    e = np.exp(z - z.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def sigmoid(x: Float) -> Float:
    """Of every element."""
    with np.errstate(over="ignore"):  # to infinity, rightly
        return np.asarray(1 / (1 + np.exp(-x)))
