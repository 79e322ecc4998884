"""Collectives on topologies: against closed forms of latency and bandwidth."""

from math import floor, log2

import pytest
from hypothesis import given, strategies as st

from systems import collectives
from systems.clusters.cluster import Link
from systems.clusters.racks import AllReduce, Racks
from systems.collectives import all_reduce, alone_s
from tests.systems.topologies import small

A, B = 2.0, 1.0  # latency and bytes/s between nodes
a, b = 0.5, 4.0  # inside them

shapes = st.tuples(st.integers(1, 9), st.integers(1, 5))
sizes = st.integers(1, 1000)


def seconds(nodes: int, devices: int, size: float, algorithm: AllReduce) -> float:
    """An all-reduce of all ranks, on idle links."""
    topology = small(nodes, devices, rate=8 * B, port_rate=8 * b, latency_s=A, port_latency_s=a)
    return alone_s(topology, all_reduce(topology, range(nodes * devices), size, algorithm))


@given(shapes, sizes)
def test_a_ring_goes_through_every_node_once(shape: tuple[int, int], size: int) -> None:
    N, g = shape
    n = N * g
    moved = 2 * (n - 1) / n * size
    slowest = B if N > 1 else b
    expected = 2 * (n - N) * a + 2 * (N - 1) * A + moved / slowest if n > 1 else 0.0
    assert seconds(N, g, size, "ring") == pytest.approx(expected)
    if g == 1:
        link = Link(bandwidth_bits_per_s=8 * B, latency_s=A)
        assert seconds(N, g, size, "ring") == pytest.approx(link.all_reduce_s(size, n))


@given(shapes, sizes)
def test_a_tree_is_logarithmic_in_the_nodes(shape: tuple[int, int], size: int) -> None:
    N, g = shape
    network_s = size * min(2, N - 1) / B
    ports_s = size * min(2, N * g - 1) / b if g > 1 else 0.0
    expected = 2 * (g - 1) * a + 2 * floor(log2(N)) * A + max(network_s, ports_s)
    assert seconds(N, g, size, "tree") == pytest.approx(expected)


@given(shapes, sizes)
def test_a_hierarchical_one_has_three_phases(shape: tuple[int, int], size: int) -> None:
    N, g = shape
    inside = 2 * ((g - 1) * a + (g - 1) / g * size / b)
    # The parts of all ranks of a node leave it through one interface, and each through its port.
    part = 2 * (N - 1) / N * size / g
    between = 2 * (N - 1) * A + max(part * g / B, part / b)
    assert seconds(N, g, size, "hierarchical") == pytest.approx(inside + between)


@given(shapes, sizes)
def test_by_size_takes_the_quicker_one(shape: tuple[int, int], size: int) -> None:
    ring, tree = (seconds(*shape, size, kind) for kind in ("ring", "tree"))
    assert seconds(*shape, size, "by size") == min(ring, tree)


def test_small_sums_go_up_a_tree_and_large_ones_round_a_ring() -> None:
    assert seconds(8, 1, 0.1, "by size") == seconds(8, 1, 0.1, "tree")
    assert seconds(8, 1, 1e6, "by size") == seconds(8, 1, 1e6, "ring")


def test_a_ring_crosses_every_rack_once() -> None:
    racks = Racks(nodes=2, oversubscription=4.0, latency_s=1.0)
    topology = small(4, racks=racks, latency_s=A)
    (phase,) = all_reduce(topology, range(4), 8.0)
    assert phase.loads == {
        **{(node, way): 12.0 for node in range(4) for way in ("out", "in")},
        **{(rack, way): 12.0 for rack in range(2) for way in ("up", "down")},
    }
    assert phase.latency_s == 2 * (A + (A + 1.0) + A)
    # An uplink has the rate of two interfaces, over 4.
    assert alone_s(topology, [phase]) == phase.latency_s + 12.0 / 0.5


@given(shapes, st.integers(0, 3))
def test_an_exchange_is_a_message_for_every_pair(shape: tuple[int, int], per_rack: int) -> None:
    N, g = shape
    n = N * g
    racks = Racks(nodes=per_rack, latency_s=1.0) if per_rack else None
    topology = small(N, g, racks=racks, latency_s=A, port_latency_s=a)
    (found,) = collectives.exchange(topology, range(n), 6.0, rounds=1)
    pairs = [(s, t, 6.0 / (n - 1)) for s in range(n) for t in range(n) if s != t]
    (expected,) = collectives.messages(topology, pairs)
    assert found.loads == pytest.approx(dict(expected.loads))
    assert found.latency_s == expected.latency_s


def test_unequal_nodes_take_the_ring() -> None:
    topology = small(2, 2)
    ring = all_reduce(topology, [0, 1, 2], 6.0, "ring")
    assert all_reduce(topology, [0, 1, 2], 6.0, "hierarchical") == ring
