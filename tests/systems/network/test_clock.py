"""Ranks find out how far their clocks are from rank 0's."""

import time
from unittest import mock

import pytest

from systems.environment import environment
from systems.network.clock import behind_rank_0_ns
from systems.network.distributed import start, stop
from tests.ranks import run_ranks

AHEAD_NS = {0: 0, 1: 0, 2: 5_000_000_000}


def measured_ns(ahead_ns: dict[int, int]) -> int:
    world = start(environment(), ["worker"] * len(ahead_ns), timeout_s=60, device="cpu")
    real = time.time_ns

    def shifted() -> int:
        return real() + ahead_ns[world.rank]

    with mock.patch.object(time, "time_ns", shifted):
        found = behind_rank_0_ns(world)
    stop(world)
    return found


@pytest.mark.distributed
def test_a_clock_that_is_ahead_is_found_and_others_are_left_alone() -> None:
    found = run_ranks(3, measured_ns, AHEAD_NS)
    assert found[:2] == [0, 0]  # no difference larger than half of an exchange
    assert found[2] == pytest.approx(-AHEAD_NS[2], rel=0.1)
