from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, strategies

from systems.environment import environment
from systems.network.distributed import start, stop
from systems.network.links import calibrate_pairs
from systems.network.pairs import Pair, PairCalibration, meetings
from tests.ranks import run_ranks


@given(strategies.integers(1, 17))
def test_every_two_ranks_meet_once_and_nobody_twice_in_a_round(size: int) -> None:
    rounds = meetings(size)
    assert sorted(pair for pairs in rounds for pair in pairs) == list(combinations(range(size), 2))
    for pairs in rounds:
        assert max(Counter(rank for pair in pairs for rank in pair).values(), default=0) <= 1


def test_a_pair_that_is_off_is_named() -> None:
    good = Pair(ranks=(0, 1), ratio=1.02)
    found = PairCalibration(rate_bits_per_s=(1e9, 1e8), pairs=(good,), latency_s=1e-4)
    assert found.fault() is None
    assert found.ratio == 1.02
    slow = replace(found, pairs=(good, Pair(ranks=(1, 2), ratio=1.3)))
    assert slow.fault() == "a message between ranks 1 and 2 takes 1.30 of its ideal time"


@pytest.mark.distributed
def test_all_ranks_find_the_same() -> None:
    results = run_ranks(3, _calibrate)
    assert results[0] == results[1] == results[2]
    assert [pair.ranks for pair in results[0].pairs] == [(0, 1), (0, 2), (1, 2)]
    # Loopback is many times faster than what the links are said to be.
    assert all(pair.ratio < 0.9 for pair in results[0].pairs)


def _calibrate() -> PairCalibration:
    world = start(environment(), ("worker",) * 3, timeout_s=60, device="cpu")
    found = calibrate_pairs((1e6, 2e6, 1e6), 0.1)
    stop(world)
    return found
