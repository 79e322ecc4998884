from dataclasses import replace

import pytest

from systems.environment import environment
from systems.network.distributed import start, stop
from systems.network.links import Calibration, calibrate
from tests.ranks import run_ranks

GOOD = Calibration(
    rate_bits_per_s=(1e9,) * 3,
    send_receive=(1.0, 1.01, 0.99),
    all_reduce=1.02,
    latency_s=1e-4,
    size_bytes=1000,
)


def test_a_link_that_is_off_is_named() -> None:
    assert GOOD.fault() is None
    slow = replace(GOOD, send_receive=(1.0, 1.2, 1.0))
    assert slow.fault() == "the link of rank 1 takes 1.20 of its ideal time"
    assert replace(GOOD, send_receive=(1.0, 1.0, 0.8)).fault() is not None  # not shaped at all
    assert replace(GOOD, all_reduce=1.3).fault() == "an all-reduce takes 1.30 of its ideal time"


@pytest.mark.distributed
def test_all_ranks_find_the_same() -> None:
    results = run_ranks(3, _calibrate)
    assert results[0] == results[1] == results[2]
    found = results[0]
    assert len(found.send_receive) == 3
    assert found.latency_s > 0
    assert found.all_reduce > 0
    # The ideal time is a thousand times what the loopback needs.
    assert found.fault() is not None


def _calibrate() -> Calibration:
    world = start(environment(), ("worker",) * 3, timeout_s=60, device="cpu")
    found = calibrate((1e6,) * 3, 100_000)
    stop(world)
    return found
