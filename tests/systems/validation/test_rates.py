"""Fits of rates: a quadratic in the logarithm of the size, kept between sense and the peak."""

import pytest
from hypothesis import given, strategies as st

from systems.schema import InputError
from systems.validation.rates import RateFit, bytes_per_s

FOUR = RateFit(quadratic=(-0.65351182, 11.42553946, 45.25031399), peak_bytes_per_s=92551901043.9898)
"""Four GH200 to another machine, of Sailor's artifact."""


def test_a_fit_is_read_at_a_megabyte_and_at_its_double() -> None:
    assert FOUR.bytes_per_s(1e6) == pytest.approx(45.25031399e9)
    assert FOUR.bytes_per_s(2e6) == pytest.approx((-0.65351182 + 11.42553946 + 45.25031399) * 1e9)


@given(size=st.floats(1.0, 1e12), factor=st.floats(1.0, 100.0))
def test_larger_messages_are_never_slower(size: float, factor: float) -> None:
    low, high = FOUR.bytes_per_s(size), FOUR.bytes_per_s(size * factor)
    assert 0 < low <= high * (1 + 1e-9)
    assert high <= FOUR.peak_bytes_per_s


def test_the_nearest_smaller_number_of_gpus_counts() -> None:
    one = RateFit(quadratic=(0.0, 0.0, 1.0), peak_bytes_per_s=1e9)
    fits = {"A": {2: one, 4: FOUR}}
    assert bytes_per_s(fits, "A", 3, 1e6) == 1e9
    assert bytes_per_s(fits, "A", 8, 1e6) == FOUR.bytes_per_s(1e6)
    assert bytes_per_s(fits, "A", 1, 1e6) == 1e9
    with pytest.raises(InputError, match="no network rate of B"):
        bytes_per_s(fits, "B", 1, 1e6)


def test_a_peak_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="peak"):
        RateFit(quadratic=(0.0, 0.0, 1.0), peak_bytes_per_s=0.0)


def test_a_fit_is_a_link_of_latency_and_rate() -> None:
    """Half of the peak where the latency takes as long as the bytes; near the fit from 1 MB on."""
    link = FOUR.link()
    assert link.bandwidth_bits_per_s == FOUR.peak_bytes_per_s * 8
    half_bytes = link.latency_s * FOUR.peak_bytes_per_s
    assert FOUR.bytes_per_s(half_bytes) == pytest.approx(FOUR.peak_bytes_per_s / 2)
    for size in (2**20, 2**23, 2**26, 2**28):
        assert link.latency_s + link.seconds(size) == pytest.approx(
            size / FOUR.bytes_per_s(size), rel=0.15
        )
