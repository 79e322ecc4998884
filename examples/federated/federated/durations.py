"""How long clients train: distributions, draws, and closed forms of what waiting costs.

Times are least + (mean - least) x, where x >= 0 has mean 1:

    half-normal   |N(0, sigma^2)| with sigma = sqrt(pi / 2): production devices, says FedBuff
    uniform       on (0, 2)
    exponential   -log(1 - u)

Every time is the quantile of an even draw, so that a distribution is its quantile function alone.
"""

import hashlib
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

SIGMA = math.sqrt(math.pi / 2)
"""The sigma of the half-normal distribution with mean 1, whose mean is sigma * sqrt(2 / pi)."""
QUANTILES: Mapping[str, Callable[[float], float]] = {
    "half-normal": lambda u: SIGMA * NormalDist().inv_cdf((1 + u) / 2),
    "uniform": lambda u: 2 * u,
    "exponential": lambda u: -math.log1p(-u),
}
POINTS = 20_000
"""Of the numeric integral of an order statistic."""
DURATION, CLIENT, LOSS, CHOICE, SPLIT, SPEEDS, BATCHES, MASK, CODE, FACTOR = range(10)
"""The purposes of random draws: each has a stream of its own, which depends on nothing else."""


def draws(seed: int, purpose: int, number: int) -> np.random.Generator:
    """The random numbers of one purpose for one flight, client or step. Whoever asks for them, in
    whatever process and order, gets the same."""
    return np.random.default_rng((seed, purpose, number))


def drawn(seed: int, purpose: int, number: int, again: int = 0) -> float:
    """A single even draw in (0, 1), with the same promise: a hash is quicker than a generator."""
    key = struct.pack("<4Q", seed, purpose, number, again)
    word = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    return (word + 0.5) / 2**64


@dataclass(frozen=True, kw_only=True)
class Durations:
    """The seconds that a client trains."""

    kind: str
    mean_s: float
    least_s: float = 0.0

    def quantile_s(self, u: float) -> float:
        """The seconds that a share `u` of all trainings does not exceed, 0 <= u < 1."""
        over_s = self.mean_s - self.least_s
        return self.least_s + (over_s * QUANTILES[self.kind](u) if over_s else 0.0)

    def order_statistic_s(self, k: int, n: int) -> float:
        """The mean seconds after which k of n clients that start together are done.

        The u of the k-th is distributed as Beta(k, n - k + 1): the integral of quantile(u) times
        its density. With k = n and half-normal, n = 1000: 4.31 of the mean.
        """
        low, high = _beta_range(k, n - k + 1)
        u = low + (high - low) * (np.arange(POINTS) + 0.5) / POINTS
        density = np.exp((k - 1) * np.log(u) + (n - k) * np.log1p(-u))
        values = np.array([self.quantile_s(x) for x in u])
        density *= math.exp(math.lgamma(n + 1) - math.lgamma(k) - math.lgamma(n - k + 1))
        return float((values * density).sum() * (high - low) / POINTS)


def _beta_range(a: int, b: int) -> tuple[float, float]:
    """Where the density of Beta(a, b) is not negligible: 12 deviations and more around its mean."""
    mean, deviation = a / (a + b), math.sqrt(a * b / (a + b + 1)) / (a + b)
    reach = 12 * deviation + 12 / (a + b)
    return max(0.0, mean - reach), min(1.0, mean + reach)
