"""Rates of transfers that begin and end: against exact progressive filling, and how much is looked
at."""

from collections.abc import Mapping
from unittest.mock import patch

import pytest
from hypothesis import given, settings, strategies as st

from systems import fair_links
from systems.fair_links import Resource, Transfers
from tests.systems.water_filling import fair_rates

Loads = Mapping[Resource, int]
NODES = 6
PAIRS = st.permutations(range(NODES))
message = st.tuples(PAIRS, st.integers(1, 3)).map(
    lambda drawn: {(drawn[0][0], "out"): drawn[1], (drawn[0][1], "in"): drawn[1]}
)
ring = st.tuples(PAIRS, st.integers(2, NODES), st.integers(1, 3)).map(
    lambda drawn: {(rank, way): drawn[2] for rank in drawn[0][: drawn[1]] for way in ("out", "in")}
)
slices = st.tuples(PAIRS, st.integers(1, 2), st.integers(1, 2)).map(
    lambda drawn: {
        (drawn[0][0], "out"): drawn[1] + drawn[2],
        (drawn[0][1], "in"): drawn[1],
        (drawn[0][2], "in"): drawn[2],
    }
)
transfers = st.lists(st.one_of(message, message, ring, slices), min_size=1, max_size=14)


@settings(deadline=None)
@given(
    transfers,
    st.lists(st.integers(1, 4), min_size=NODES, max_size=NODES),
    st.sampled_from([0, 3, 64]),
    st.data(),
)
def test_rates_are_max_min_fair_after_every_change(
    given_loads: list[Loads], rates: list[int], few: int, data: st.DataObject
) -> None:
    """Whatever begins, ends, or changes its rate, and however soon all are shared anew."""
    capacity: dict[Resource, int] = {
        (node, way): rate for node, rate in enumerate(rates) for way in ("out", "in")
    }
    paces = [max(loads.values()) for loads in given_loads]
    under_way = Transfers(given_loads, paces, dict(capacity).__getitem__)
    waiting, present = list(range(len(given_loads))), dict[int, Loads]()
    with patch.object(fair_links, "FEW", few):
        while waiting or present:
            changes = ["begin"] * bool(waiting) + ["end"] * bool(present)
            change = data.draw(st.sampled_from([*changes, "rate"]))
            if change == "begin":
                number = waiting.pop()
                present[number] = given_loads[number]
                under_way.add(number, 0.0)
            elif change == "end":
                number = data.draw(st.sampled_from(sorted(present)))
                del present[number]
                under_way.remove(number)
            else:
                interface = data.draw(st.sampled_from(sorted(capacity)))
                capacity[interface] = data.draw(st.integers(0, 4))
                under_way.set_rate(interface, capacity[interface])
            under_way.share(0.0)
            expected = fair_rates(present, capacity)
            assert under_way.rates() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("ranks", [64, 512])
def test_messages_beside_an_all_reduce_look_at_their_own_interfaces(ranks: int) -> None:
    """A ring that a slow link holds, and n messages that begin and end beside it: about n steps."""
    looked_at: list[Resource] = []

    def capacity(interface: Resource) -> float:
        looked_at.append(interface)
        return 0.25 if interface == (0, "in") else 1.0

    around: Loads = {(rank, way): 4 for rank in range(ranks) for way in ("out", "in")}
    pairs: list[Loads] = [{(i, "out"): 1, (i + 1, "in"): 1} for i in range(1, ranks - 1)]
    under_way = Transfers([around, *pairs], [4, *[1] * len(pairs)], capacity)
    for number in range(ranks - 1):
        under_way.add(number, 0.0)
        under_way.share(0.0)
    assert under_way.rates() == pytest.approx({0: 0.25} | dict.fromkeys(range(1, ranks - 1), 0.75))
    for number in range(1, ranks - 1):
        under_way.remove(number)
        under_way.share(0.0)
    assert len(looked_at) < 12 * ranks
