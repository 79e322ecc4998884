"""What filters mean: float64, a row at a time, by sorting (`filters` says it in words)."""

import numpy as np
import numpy.typing as npt

from speculative.verification.filters import in_range

Float = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

ROUNDING = 1e-5
"""By how much, relative, float32 may shift what a filter compares."""


def kept(z: Float, top_k: float, top_p: float, min_p: float) -> Bools:
    """Which tokens of a row the filters keep (`speculative.verification.filters`), bool [V]. Of a
    row that holds NaN or +inf, or nothing finite, all are.

    Args:
        z: logits [V], divided by the temperature.
    """
    if not np.isfinite(z.max()):
        return np.ones(z.shape, np.bool_)
    top_k, top_p, min_p = in_range(top_k, top_p, min_p)
    order = np.argsort(-z, kind="stable")
    first = np.arange(len(z)) < top_k
    weights = np.exp(z[order] - z.max()) * first
    before = np.concatenate([[0.0], weights.cumsum()[:-1]])
    first &= (before < top_p * weights.sum()) | (top_p == 1)
    first &= weights >= min_p
    first[0] = True
    found = np.zeros(z.shape, np.bool_)
    found[order[first]] = True
    return found


def filtered(rows: Float, top_k: float, top_p: float, min_p: float) -> Float:
    """Logits [rows, V] that are -inf where a token is not kept."""
    found = [np.where(kept(row, top_k, top_p, min_p), row, -np.inf) for row in rows]
    return np.array(found).reshape(rows.shape)
