"""Programs on topologies with faults: against exact water-filling in fractions, and properties."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st

from systems.clusters.cluster import Link
from systems.clusters.faults import Faults, Jitter, LinkFault, OtherJob, Straggler
from systems.clusters.racks import Racks
from systems.clusters.topology import Topology
from systems.faulty import simulate_on
from systems.program import Program
from systems.schema import InputError
from tests.systems.topologies import small
from tests.systems.water_filling import Flow, Resource, exact_ends

LINK = Link(bandwidth_bits_per_s=8.0)

flows = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 7), st.integers(0, 7), st.integers(1, 5)).filter(
        lambda flow: flow[1] != flow[2]
    ),
    min_size=1,
    max_size=8,
)
link_faults = st.lists(
    st.builds(
        lambda node, factor, start, length: LinkFault(
            node=node, factor=factor, from_s=start, until_s=start + length
        ),
        st.integers(0, 3),
        st.sampled_from([0.0, 0.25, 0.5]),
        st.just(0.0),
        st.integers(1, 3),
    ),
    max_size=3,
)


def program_of(given_flows: Sequence[Flow]) -> Program:
    program = Program()
    for i, (start, source, target, size) in enumerate(given_flows):
        clock = program.compute(f"rank {100 + i}", start)
        program.flow(source, target, size, after=[clock])
    return program


def ends_of(given_flows: Sequence[Flow], topology: Topology) -> list[float]:
    timeline = simulate_on(program_of(given_flows), topology)
    return [timeline.ends_s[2 * i + 1] for i in range(len(given_flows))]


def reference(given_flows: Sequence[Flow], topology: Topology) -> list[float]:
    """Ends of flows over the links of a topology."""

    def capacity(interface: Resource, now: Fraction) -> Fraction:
        rate = Fraction(topology.bytes_per_s(interface))
        for fault in topology.faults.links:
            own = interface in ((fault.node, "out"), (fault.node, "in"))
            if own and fault.from_s <= now < (fault.until_s or 0):
                rate *= Fraction(fault.factor)
        return rate

    turns = sorted({int(t) for f in topology.faults.links for t in (f.from_s, f.until_s or 0)})
    return exact_ends(given_flows, topology.path, capacity, turns)


def two_racks(**more: object) -> Topology:
    """Four nodes of two devices; a rack's uplink has the rate of one interface."""
    racks = Racks(nodes=2, oversubscription=2.0)
    return small(4, 2, port_rate=16.0, racks=racks, **more)  # type: ignore[arg-type]


@given(flows)
def test_paths_of_links_are_shared_as_exact_water_filling_shares_them(
    given_flows: list[Flow],
) -> None:
    expected = reference(given_flows, two_racks())
    assert ends_of(given_flows, two_racks()) == pytest.approx(expected)


@given(flows, link_faults)
def test_so_are_links_that_degrade_and_fail(
    given_flows: list[Flow], faults: list[LinkFault]
) -> None:
    topology = two_racks(faults=Faults(links=tuple(faults)))
    expected = reference(given_flows, topology)
    assert ends_of(given_flows, topology) == pytest.approx(expected)


@given(flows)
def test_racks_that_do_not_block_are_as_none(given_flows: list[Flow]) -> None:
    racks = small(4, 2, racks=Racks(nodes=2, oversubscription=1.0))
    assert ends_of(given_flows, racks) == pytest.approx(ends_of(given_flows, small(4, 2)))


@given(flows)
def test_one_device_a_node_is_a_plain_link(given_flows: list[Flow]) -> None:
    timeline = simulate_on(program_of(given_flows), LINK)
    assert simulate_on(program_of(given_flows), small(8)).ends_s == timeline.ends_s


@given(flows)
def test_faults_that_change_nothing_change_nothing_at_all(given_flows: list[Flow]) -> None:
    none = Faults(
        stragglers=(Straggler(rank=0, factor=1.0),),
        links=(LinkFault(node=0, factor=1.0),),
        jitter=Jitter(spread=0.0),
    )
    same = ends_of(given_flows, two_racks(faults=none))
    assert same == ends_of(given_flows, two_racks())


def step(topology: Topology, algorithm_bytes: float = 4.0) -> float:
    """The seconds of a step: every rank computes for a second, then all sum."""
    program, ranks = Program(), range(len(topology.node_of))
    done = [program.compute(f"rank {rank}", 1.0) for rank in ranks]
    program.all_reduce(ranks, algorithm_bytes, after=done)
    return simulate_on(program, topology).end_s


@given(st.floats(1.0, 8.0), st.sampled_from(["ring", "tree", "hierarchical", "by size"]))
def test_more_bandwidth_is_never_slower(times: float, algorithm: str) -> None:
    racks = Racks(nodes=2, oversubscription=2.0)
    slow = small(4, 2, racks=racks, all_reduce=algorithm)
    fast = small(4, 2, rate=8.0 * times, racks=racks, all_reduce=algorithm)
    assert step(fast) <= step(slow) * (1 + 1e-9)


def test_a_straggler_is_waited_for_while_it_is_one() -> None:
    healthy = step(small(2))
    half = Straggler(rank=1, factor=2.0)
    assert step(small(2, faults=Faults(stragglers=(half,)))) == healthy + 1.0
    # Half of the second's work is done at 1 s; the rest at full speed.
    until = Straggler(rank=1, factor=2.0, until_s=1.0)
    assert step(small(2, faults=Faults(stragglers=(until,)))) == healthy + 0.5
    later = Straggler(rank=1, factor=3.0, from_s=0.5)
    assert step(small(2, faults=Faults(stragglers=(later,)))) == healthy + 1.0


@settings(max_examples=20)
@given(st.sampled_from(["lognormal", "uniform", "exponential"]), st.integers(0, 99))
def test_jitter_is_drawn_from_its_seed_and_waited_for(kind: str, seed: int) -> None:
    once = Jitter(distribution=kind, spread=0.2, seed=seed)  # type: ignore[arg-type]
    factors = [once.factor(rank, 0) for rank in range(4)]
    assert len(set(factors)) == 4
    assert step(small(4, faults=Faults(jitter=once))) == step(small(4)) - 1.0 + max(factors)
    # Drawn anew within the second, it evens out: the second ends where the work sums up to one.
    often = Faults(jitter=Jitter(distribution=kind, spread=0.2, seed=seed, every_s=0.01))  # type: ignore[arg-type]
    end_s = often.computed_s(0, 0.0, 1.0)
    assert often.jitter is not None
    whole = int(end_s / 0.01)
    work = sum(0.01 / often.jitter.factor(0, period) for period in range(whole))
    work += (end_s - whole * 0.01) / often.jitter.factor(0, whole)
    assert work == pytest.approx(1.0)


def test_a_link_that_degrades_meanwhile_delays_what_is_left() -> None:
    program = Program()
    flow = program.flow(0, 1, 4.0)
    fault = LinkFault(node=1, factor=0.5, from_s=2.0)
    topology = small(2, faults=Faults(links=(fault,)))
    assert simulate_on(program, topology).ends_s[flow] == 2.0 + 2.0 / 0.5


def test_a_rack_whose_uplink_degrades_delays_what_crosses_it() -> None:
    fault = LinkFault(rack=1, factor=0.25)
    topology = small(4, racks=Racks(nodes=2), faults=Faults(links=(fault,)))
    assert ends_of([(0, 0, 3, 1), (0, 0, 1, 1)], topology) == [2.0 + 0.0, 2.0]
    assert ends_of([(0, 0, 3, 2), (0, 1, 2, 2)], topology) == [8.0, 8.0]


def test_what_waits_for_a_failed_link_ends_the_simulation_by_name() -> None:
    program = Program()
    flow = program.flow(0, 1, 4.0, name="push")
    program.flow(2, 3, 1.0, name="other")
    program.join([flow], name="update")
    fault = LinkFault(node=1, factor=0.0, from_s=2.0)
    with pytest.raises(InputError) as caught:
        simulate_on(program, small(4, faults=Faults(links=(fault,))))
    assert str(caught.value).startswith(
        "faults: 'push' of the job waits for ever, as the link of node 1 has failed, and 1 other"
    )
    back = LinkFault(node=1, factor=0.0, from_s=2.0, until_s=5.0)
    topology = small(4, faults=Faults(links=(back,)))
    assert simulate_on(program, topology).ends_s[flow] == 4.0 + 3.0


def test_a_second_job_takes_its_share() -> None:
    flow = [(0, 0, 1, 3)]
    greedy = OtherJob(name="o", source=2, target=1)
    assert ends_of(flow, small(3, faults=Faults(jobs=(greedy,)))) == [6.0]
    held = OtherJob(name="o", source=2, target=1, bandwidth_bits_per_s=2.0)
    assert ends_of(flow, small(3, faults=Faults(jobs=(held,)))) == [4.0]
    short = OtherJob(name="o", source=2, target=1, size_bytes=1.0)
    assert ends_of(flow, small(3, faults=Faults(jobs=(short,)))) == [4.0]
    cut = OtherJob(name="o", source=2, target=1, from_s=1.0, until_s=2.0)
    assert ends_of(flow, small(3, faults=Faults(jobs=(cut,)))) == [3.5]


def test_a_fault_that_is_never_reached_is_refused() -> None:
    late = Straggler(rank=0, factor=2.0, from_s=100.0)
    with pytest.raises(InputError, match=r"from_s = 100: the simulation ends at 5 s"):
        step(small(2, faults=Faults(stragglers=(late,))))


def test_the_second_job_may_outlast_the_first_and_move_nothing_of_it() -> None:
    elsewhere = OtherJob(name="o", source=2, target=3)
    topology = small(4, faults=Faults(jobs=(elsewhere,)))
    assert ends_of([(0, 0, 1, 3)], topology) == [3.0]
