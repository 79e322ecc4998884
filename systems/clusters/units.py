"""Refuses rates and latencies of links that must be in another unit than theirs."""

from systems.schema import InputError

RATES_BITS_PER_S = (1e3, 1e15)
"""Links have rates between these; others were meant in another unit."""
LARGEST_LATENCY_S = 60.0
"""The same for latencies."""


def check_rate(rate_bits_per_s: float, where: str) -> None:
    """Refuse a rate that no link has.

    Args:
        where: what gives the rate, with its value.

    Raises:
        InputError: names it, and the unit.
    """
    least, most = RATES_BITS_PER_S
    if not least <= rate_bits_per_s <= most:
        raise InputError(f"{where}: no link has this rate; give bits per second; 10 Gb/s is 10e9")


def check_latency(latency_s: float, where: str) -> None:
    """Refuse a latency that no link has; see `check_rate`."""
    if latency_s > LARGEST_LATENCY_S:
        raise InputError(f"{where}: no link waits so long; give seconds; 50 us is 50e-6")
