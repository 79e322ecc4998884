"""The calibrated approximation: p(x) / q(x) is estimated from the two logits of draft token x.

Exact verification needs the normalisers (the sums of exponentials) of every pair of rows that it
accepts a token from. Here they are estimated once for a pair of models: with z and y the logits of
x,

    log(p(x) / q(x)) = intercept + target_slope z / temperature + draft_slope y / temperature,

so a token is accepted in O(1). Slopes 1 and -1 assume a constant difference of the logarithms of
both normalisers; free slopes follow rows whose normaliser is mostly their likeliest token.

Only the pair of rows of a rejection is read and its softmax computed. The next token comes from
max(0, p - q a), where a = min(1, estimate) is what acceptance took. So the output follows the
target's distribution wherever the estimate is not above the ratio, and its total variation from the
target's distribution is the mean over draft tokens of max(0, a - min(1, p / q)). The mean of the
opposite, max(0, min(1, p / q) - a), is acceptance lost. `fit` weighs the one against the other. The
rule is not exact, because the estimate errs.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from speculative.verification import CAUTION
from speculative.verification.rules import Calibrated
from systems.schema import InputError

if TYPE_CHECKING:
    from torch import Tensor

FEWEST_TOKENS = 16
"""A fit to fewer draft tokens is refused."""


class Observed:
    """Draft tokens of calibration prompts, with their two logits and their log(p / q).

    Args:
        temperature: divides the logits.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self._temperature = temperature
        self._parts: list[npt.NDArray[np.float64]] = []

    def add(self, target_logits: "Tensor", draft_logits: "Tensor", draft_tokens: "Tensor") -> None:
        """Add the draft tokens of a step, int64 [B, G], with logits [B, G + 1, V] and [B, G, V]."""
        gamma = draft_tokens.shape[1]
        target, draft = (
            x[:, :gamma].double() / self._temperature for x in (target_logits, draft_logits)
        )
        places = draft_tokens[..., None]
        z, y = target.gather(-1, places)[..., 0], draft.gather(-1, places)[..., 0]
        log_ratio = (z - target.logsumexp(-1)) - (y - draft.logsumexp(-1))
        self._parts.append(np.stack([x.flatten().cpu().numpy() for x in (z, y, log_ratio)]))

    def fit(self, caution: float = CAUTION) -> Calibrated:
        """The rule that `fit` finds for all draft tokens that were added."""
        parts = self._parts or [np.empty((3, 0))]
        return fit(*np.concatenate(parts, 1), caution=caution)


def fit(
    target_logits: npt.NDArray[np.float64],
    draft_logits: npt.NDArray[np.float64],
    log_ratios: npt.NDArray[np.float64],
    *,
    caution: float = CAUTION,
) -> Calibrated:
    """The rule with the least caution x total variation + lost acceptance on these draft tokens.

    Args:
        target_logits, draft_logits: the two logits of N draft tokens, divided by temperature,
            float64 [N].
        log_ratios: log(p / q) of the same tokens, float64 [N].
        caution: more of it trades acceptance for closeness to the target's distribution.

    Raises:
        InputError: fewer than 16 tokens with finite logits, or caution not above 0.
    """
    if not 0 < caution < np.inf:
        raise InputError(f"caution {caution:g}: give a number above 0")
    features = np.stack([np.ones_like(target_logits), target_logits, draft_logits])
    finite = np.isfinite(features).all(0) & np.isfinite(log_ratios)
    features, ratios = features[:, finite], np.exp(np.minimum(log_ratios[finite], 0))
    if features.shape[1] < FEWEST_TOKENS:
        raise InputError(
            f"calibration on {features.shape[1]} draft tokens: give {FEWEST_TOKENS} or more"
        )

    def cost(coefficients: npt.NDArray[np.float64]) -> float:
        # Too high an estimate makes the output wrong, too low a one loses acceptance.
        over = np.exp(np.minimum(coefficients @ features, 0)) - ratios
        return float(np.where(over > 0, caution * over, -over).mean())

    # Begin at constant differences of the log-normalisers, from a careful one to the median.
    gaps = log_ratios[finite] - features[1] + features[2]
    starts = [np.array([gap, 1.0, -1.0]) for gap in np.quantile(gaps, [0.1, 0.3, 0.5])]
    return Calibrated(*map(float, _least(cost, starts)))


def _least(
    cost: Callable[[npt.NDArray[np.float64]], float], starts: list[npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """The coefficients of the least cost among the minima that a search finds, one from each start.

    The search uses no derivatives, since the cost has kinks.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    options = {"maxiter": 600, "xatol": 1e-4, "fatol": 1e-7}
    minima = [minimize(cost, start, method="Nelder-Mead", options=options) for start in starts]
    return np.asarray(min(minima, key=lambda result: result.fun).x)
