"""The simulator: against hand-computed cases and a slow, plain reference."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from systems.clusters.cluster import Link
from systems.clusters.links import Links
from systems.program import Program
from systems.schema import InputError
from systems.simulate import simulate
from tests.systems.water_filling import Flow, exact_ends

LINK = Link(bandwidth_bits_per_s=8.0)
"""One byte a second."""


def test_a_stream_runs_one_task_at_a_time_in_the_order_of_readiness() -> None:
    program = Program()
    first = program.compute("gpu", 1.0)
    early = program.compute("other", 0.5)
    late = program.compute("gpu", 1.0, after=[first])
    middle = program.compute("gpu", 2.0, after=[early])
    timeline = simulate(program, LINK)
    assert timeline.starts_s[middle] == 1.0  # ready at 0.5, before `late`
    assert timeline.starts_s[late] == 3.0
    assert timeline.end_s == 4.0
    assert timeline.busy_s("gpu") == 4.0


def test_directions_are_independent_and_latency_follows_the_bytes() -> None:
    program = Program(latency_s=0.25)
    there, back = program.flow(0, 1, 2.0), program.flow(1, 0, 3.0)
    answer = program.compute("gpu", 1.0, after=[there])
    timeline = simulate(program, LINK)
    assert timeline.ends_s[there] == 2.25
    assert timeline.ends_s[back] == 3.25
    assert timeline.ends_s[answer] == 3.25


def test_flows_share_an_interface_max_min_fairly() -> None:
    """Three flows into node 2 get a third each; the one from 0 to 1 gets what node 0 has left."""
    program = Program()
    free, *_ = (
        program.flow(source, target, 1.0) for source, target in ((0, 1), (0, 2), (3, 2), (4, 2))
    )
    timeline = simulate(program, LINK)
    assert timeline.ends_s[free] == pytest.approx(1.5)
    assert timeline.ends_s[1:] == pytest.approx([3.0] * 3)


def test_a_flow_that_ends_leaves_its_share_to_the_others() -> None:
    program = Program()
    short, long = program.flow(0, 2, 1.0), program.flow(1, 2, 3.0)
    timeline = simulate(program, LINK)
    assert timeline.ends_s[short] == pytest.approx(2.0)
    assert timeline.ends_s[long] == pytest.approx(4.0)


def test_an_all_reduce_goes_round_a_ring() -> None:
    """Each of three nodes sends a third of six bytes four times; a node alone sends nothing."""
    link = Link(bandwidth_bits_per_s=8.0, latency_s=0.5)
    program = Program(link.latency_s)
    program.all_reduce(range(3), 6.0)
    assert simulate(program, link).end_s == link.all_reduce_s(6.0, 3) == 4 * (2.0 + 0.5)
    alone = Program(link.latency_s)
    alone.all_reduce([7], 6.0)
    assert simulate(alone, link).end_s == link.all_reduce_s(6.0, 1) == 0.0


def test_an_exchange_keeps_one_pace_on_all_its_interfaces() -> None:
    """A flow into node 0 takes half of it, so the whole ring runs at half speed meanwhile."""
    program = Program(latency_s=0.5)
    ring = program.exchange(range(3), 2.0, messages=4)
    flow = program.flow(3, 0, 1.0)
    timeline = simulate(program, LINK)
    assert timeline.ends_s[flow] == pytest.approx(2.0 + 0.5)
    assert timeline.ends_s[ring] == pytest.approx(3.0 + 4 * 0.5)


def test_nothing_takes_no_time() -> None:
    program = Program()
    point = program.join([program.flow(0, 1, 0.0), program.compute("gpu", 0.0)])
    assert simulate(program, LINK).ends_s[point] == 0.0
    assert simulate(Program(), LINK).end_s == 0.0


def test_a_task_cannot_wait_for_a_later_one() -> None:
    with pytest.raises(ValueError, match="not been added yet"):
        Program().compute("gpu", 1.0, name="early", after=[0])


def test_an_unknown_rate_is_refused() -> None:
    with pytest.raises(InputError, match="bandwidth_bits_per_s"):
        simulate(Program(), Link())


flows = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(4, 7), st.integers(1, 5)),
    min_size=1,
    max_size=8,
)


ALIKE = (1,) * 8
"""One byte a second at every node."""


def reference(given_flows: list[Flow], capacities: Sequence[int] = ALIKE) -> list[float]:
    """Ends of flows between nodes with links of these bytes a second."""
    return exact_ends(
        given_flows,
        lambda source, target: [(source, "out"), (target, "in")],
        lambda interface, _: Fraction(capacities[interface[0]]),
    )


@given(flows)
def test_sharing_equals_exact_water_filling(given_flows: list[Flow]) -> None:
    program = Program()
    numbers = [
        program.flow(source, target, size, after=[program.compute(f"clock {i}", start)])
        for i, (start, source, target, size) in enumerate(given_flows)
    ]
    timeline = simulate(program, LINK)
    expected = reference(given_flows)
    assert [timeline.ends_s[number] for number in numbers] == pytest.approx(expected)


@given(flows, st.lists(st.integers(1, 4), min_size=8, max_size=8))
def test_links_of_several_rates_are_shared_exactly(
    given_flows: list[Flow], rates: list[int]
) -> None:
    program = Program()
    numbers = [
        program.flow(source, target, size, after=[program.compute(f"clock {i}", start)])
        for i, (start, source, target, size) in enumerate(given_flows)
    ]
    links = Links(tuple(Link(bandwidth_bits_per_s=8 * rate) for rate in rates))
    timeline = simulate(program, links)
    expected = reference(given_flows, rates)
    assert [timeline.ends_s[number] for number in numbers] == pytest.approx(expected)


@given(flows)
def test_the_same_program_gives_the_same_timeline(given_flows: list[Flow]) -> None:
    def played() -> list[float]:
        program = Program(latency_s=0.1)
        for start, source, target, size in given_flows:
            clock = program.compute(f"rank {source}", start)
            program.flow(source, target, size, after=[clock])
        return list(simulate(program, LINK).ends_s)

    assert played() == played()
