"""How far a method's next token is from the target's distribution, in closed form, float64.

For a draft token x from q that is accepted with probability a(x), and a residual r that a rejection
samples from, the next token has the distribution

    o(x) = q(x) a(x) + (1 - sum of q a) r(x).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from speculative.verification.reference import Float, acceptance, residual, softmax, weights
from speculative.verification.rules import EXACT, Rule


class Distance(NamedTuple):
    """The distances at every position, float64 [N] each."""

    acceptance: Float
    """The probability that the draft token is accepted."""
    total_variation: Float
    """The total variation between the next token's and the target's distribution."""
    bonus_total_variation: Float
    """The same for the token that follows when all draft tokens are accepted."""


def distance(
    target_logits: npt.ArrayLike,
    draft_logits: npt.ArrayLike,
    *,
    rule: Rule = EXACT,
    temperature: float = 1.0,
) -> Distance:
    """Acceptance and total variation at N positions.

    Args:
        target_logits, draft_logits: [N, V]; -inf excludes a token.
        rule, temperature: see `speculative.verification.verify.verify`.
    """
    z, y = (np.asarray(x, np.float64) / temperature for x in (target_logits, draft_logits))
    p, q = softmax(z), softmax(y)
    bonus = _normalised(weights(rule, z))
    with np.errstate(invalid="ignore", divide="ignore"):
        above, below = acceptance(rule, z, y)
        accept = np.where(above > 0, np.minimum(1, np.where(below > 0, above / below, 1)), 0)
    left = residual(rule, z, y)
    left = np.where(left.any(-1, keepdims=True), left, bonus)
    accepted = (q * accept).sum(-1)
    output = q * accept + (1 - accepted)[:, None] * _normalised(left)
    return Distance(accepted, _variation(output, p), _variation(bonus, p))


def _variation(a: Float, b: Float) -> Float:
    """The total variation between distributions, over the last dimension."""
    return np.asarray(np.abs(a - b).sum(-1) / 2)


def _normalised(weights: Float) -> Float:
    """The weights divided by their sum over the last dimension."""
    return np.asarray(weights / weights.sum(-1, keepdims=True))
