"""The one timer: quartiles as numpy's, calls as asked for."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from systems import measure
from systems.network.loopback import measure_loopback


@settings(deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40))
def test_spread_is_numpys(values: list[float]) -> None:
    result = measure.spread(values)
    low, median, high = np.percentile(values, [25, 50, 75])
    assert result.low == pytest.approx(low, rel=1e-9, abs=1e-6)
    assert result.median == pytest.approx(median, rel=1e-9, abs=1e-6)
    assert result.high == pytest.approx(high, rel=1e-9, abs=1e-6)
    assert result.n == len(values)


@settings(deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40))
def test_spread_knows_no_order(values: list[float]) -> None:
    assert measure.spread(values) == measure.spread(sorted(values))


def test_spread_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no measurements"):
        measure.spread([])


def test_spread_prints_median_quartiles_and_size() -> None:
    assert str(measure.spread([1.0, 2.0, 3.0, 4.0, 5.0])) == "3 [2, 4] n=5"


@pytest.mark.parametrize(("warm_up", "repetitions"), [(0, 1), (1, 5), (3, 2)])
def test_timed_calls_as_often_as_asked(warm_up: int, repetitions: int) -> None:
    calls: list[None] = []
    result = measure.timed(
        lambda: calls.append(None),
        warm_up=warm_up,
        repetitions=repetitions,
        device=torch.device("cpu"),
    )
    assert len(calls) == warm_up + repetitions
    assert result.n == repetitions
    assert result.low > 0


def test_timed_leaves_the_warm_up_out() -> None:
    clock = iter([0.0, 2.0, 10.0, 14.0, 20.0, 26.0])
    result = measure.timed(lambda: None, warm_up=2, repetitions=3, clock=lambda: next(clock))
    assert (result.low, result.median, result.high) == (3.0, 4.0, 5.0)


def test_peak_memory_covers_what_was_held() -> None:
    held = torch.ones(64 * 1024**2, dtype=torch.uint8)
    peak = measure.peak_memory_bytes(torch.device("cpu"))
    assert peak > held.nbytes
    del held
    assert measure.peak_memory_bytes(torch.device("cpu")) >= peak


@pytest.mark.distributed
def test_loopback_has_a_rate_and_a_latency() -> None:
    link = measure_loopback()
    assert link.bandwidth_bits_per_s is not None
    assert link.bandwidth_bits_per_s > 1e6
    assert 0 < link.latency_s < 1


def test_laps_sum_the_blocks_since_they_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = iter([0.0, 1.0, 5.0, 7.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times_s))
    laps = measure.Laps(torch.device("cpu"))
    for _ in range(2):
        with laps.one():
            pass
    assert [laps.taken_s(), laps.taken_s()] == [3.0, 0.0]


def test_laps_of_a_gpu_are_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host is done at once; the GPU works for 5 ms in each block and for 7 ms between them."""
    now_ms = [0.0]
    waited: list[float] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.ms = now_ms[0]

        def synchronize(self) -> None:
            waited.append(self.ms)

        def elapsed_time(self, end: "Event") -> float:
            return end.ms - self.ms

    monkeypatch.setattr(torch.cuda, "Event", Event)
    laps = measure.Laps(torch.device("cuda"))
    for _ in range(3):
        with laps.one():
            now_ms[0] += 5
        now_ms[0] += 7
    assert not waited
    assert laps.taken_s() == pytest.approx(0.015)
    assert waited == [5, 17, 29]
    assert laps.taken_s() == 0
