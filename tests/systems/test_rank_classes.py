"""Ranks that cannot differ: their classes, and messages that stand for many."""

import pytest
from hypothesis import given, strategies as st

from systems.clusters.cluster import Link
from systems.program import Program
from systems.rank_classes import RankClass, rank_classes, titled
from systems.simulate import simulate

LINK = Link(bandwidth_bits_per_s=8.0)
"""One byte a second."""


def test_ranks_of_equal_keys_are_a_class() -> None:
    classes = rank_classes(range(5), lambda rank: "ab"[rank % 2])
    assert classes == [RankClass((0, 2, 4)), RankClass((1, 3))]
    assert [(one.played, one.count) for one in classes] == [(0, 3), (1, 2)]


def test_a_track_says_for_how_many_ranks_it_stands() -> None:
    spans = [("rank 0", "a", 0.0, 1.0), ("rank 0 out", "b", 0.0, 1.0), ("rank 3 in", "c", 0.0, 1.0)]
    tracks = [track for track, *_ in titled(spans, [RankClass((0, 1, 2)), RankClass((3,))])]
    assert tracks == ["rank 0 (and 2 alike)", "rank 0 (and 2 alike) out", "rank 3 in"]


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=3
    ),
    st.integers(1, 4),
    st.integers(0, 4),
)
def test_messages_of_classes_equal_those_of_all_members(
    senders: list[tuple[int, int, int]], receivers: int, lone: int
) -> None:
    """Classes of (members, start second, bytes) send to each of some equal receivers, while another
    node sends `lone` bytes to all of those as well."""
    whole, classed = Program(0.25), Program(0.25)
    ends: list[tuple[list[int], int]] = []
    targets = range(100, 100 + receivers)
    for number, (members, start_s, size) in enumerate(senders):
        flows = []
        for member in range(members):
            node = 10 * number + member
            ready = whole.compute(f"clock {node}", start_s)
            flows += [whole.flow(node, target, size, after=[ready]) for target in targets]
        ready = classed.compute(f"clock {number}", start_s)
        flow = classed.flow(10 * number, 100, size, sent=receivers, received=members, after=[ready])
        ends.append((flows, flow))
    flows = [whole.flow(99, target, lone) for target in targets]
    ends.append((flows, classed.flow(99, 100, lone, sent=receivers, received=1)))
    all_ranks, one_each = simulate(whole, LINK), simulate(classed, LINK)
    for numbers, number in ends:
        expected = [one_each.ends_s[number]] * len(numbers)
        assert [all_ranks.ends_s[n] for n in numbers] == pytest.approx(expected, rel=1e-12)


def test_an_all_reduce_of_classes_goes_round_all_members() -> None:
    link = Link(bandwidth_bits_per_s=8.0, latency_s=0.5)
    program = Program(link.latency_s)
    program.all_reduce([0, 7], 6.0, ranks=12)
    assert simulate(program, link).end_s == link.all_reduce_s(6.0, 12)
