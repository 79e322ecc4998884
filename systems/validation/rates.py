"""Measured rates of a network, which depend on the size of a message.

[Note: a fit of rates]
Whoever measures a network sends messages of many sizes and fits the rate that they reach. The fit
here is a quadratic in the logarithm of the size, with the highest rate beside it:

    rate = a x^2 + b x + c GB/s     x = log2(size / 1 MB)

It is taken for several numbers of GPUs of one machine that send at once, each a message of that
size; the rate is that of all of them together. Where they have one network interface in common, it
hardly changes with their number; where each has its own, it grows with it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from systems.clusters.cluster import Link
from systems.schema import InputError

LEAST_SHARE = 0.01
"""The least part of the highest rate: below the smallest message that was measured, a quadratic
falls without end."""


@dataclass(frozen=True, kw_only=True)
class RateFit:
    """The rate that a number of GPUs reach together; see [Note: a fit of rates]."""

    quadratic: tuple[float, float, float]
    """The factors a, b, c of the note, for GB/s."""
    peak_bytes_per_s: float
    """The highest rate that was measured."""

    def __post_init__(self) -> None:
        if not 0 < self.peak_bytes_per_s < float("inf"):
            raise InputError(f"a peak of {self.peak_bytes_per_s:g} bytes/s; give more than 0")

    def bytes_per_s(self, size_bytes: float) -> float:
        """The rate of messages of that size, which never falls as they grow."""
        a, b, c = self.quadratic
        x = math.log2(max(size_bytes, 1.0) / 1e6)
        if a < 0:  # beyond its top the quadratic says nothing
            x = min(x, -b / (2 * a))
        rate = (a * x * x + b * x + c) * 1e9
        return min(max(rate, LEAST_SHARE * self.peak_bytes_per_s), self.peak_bytes_per_s)

    def link(self) -> Link:
        """The link of this rate: latency A and B bytes/s, with which s bytes take A + s / B.

        B is the highest rate. Half of it is reached where s / B = A (Hockney's n 1/2).
        """
        low, high = 1.0, 1e15
        while high / low > 1 + 1e-9:
            middle = math.sqrt(low * high)
            half = self.bytes_per_s(middle) >= self.peak_bytes_per_s / 2
            low, high = (low, middle) if half else (middle, high)
        peak = self.peak_bytes_per_s
        return Link(bandwidth_bits_per_s=peak * 8, latency_s=high / peak)


Fits = Mapping[str, Mapping[int, RateFit]]
"""Fits by the kind of GPU and the number of GPUs that send at once."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """The measured rates between the machines of a cluster and inside them."""

    between: Fits
    """The rates of the network interfaces of a machine."""
    inside: Fits
    """The rates of the links between the GPUs of a machine."""


def bytes_per_s(fits: Fits, kind: str, count: int, size_bytes: float) -> float:
    """The rate that `count` GPUs of a kind reach together with messages of that size.

    Raises:
        InputError: no rate of that kind was measured.
    """
    if kind not in fits:
        raise InputError(f"no network rate of {kind} was measured")
    known = fits[kind]
    fewer = [number for number in known if number <= count]
    return known[max(fewer) if fewer else min(known)].bytes_per_s(size_bytes)
