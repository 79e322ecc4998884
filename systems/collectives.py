"""What collectives of several ranks put on the links of a topology, and how long they take.

[Note: three ways to sum]
n ranks on N nodes, g = n / N on each, sum S bytes. a and b are the latency and the bytes/s inside a
node, A and B those between nodes, where B is shared by the ranks of a node:

    ring          2 (n - N) a + 2 (N - 1) A      + 2 (n - 1) / n S / min(b, B)
    tree          2 (g - 1) a + 2 log2(N) A      + 2 S / min(b, B)
    hierarchical  2 (g - 1) a + 2 (N - 1) A      + 2 (g - 1) / g S / b + 2 (N - 1) / N S / B

The ring goes through all ranks of a node before the next one, so it enters and leaves every node
once; a piece makes 2 (n - 1) hops, of which 2 (N - 1) are between nodes. The tree is NCCL's double
binary tree of nodes, each with a chain of its ranks: half of the bytes go up and down each of the
two trees, and a node that has children in one has none in the other, so that the busiest interface
carries 2 S (S with two nodes, each the other's only child). The hierarchical one sums parts inside
each node (reduce-scatter), then g rings sum a part each between the nodes, then the parts are
gathered inside (all-gather): three phases, one after the other. It needs as many ranks on every
node; others take the ring.

[Note: by size]
"by size" takes the quicker of ring and tree on idle links. NCCL chooses so, by the same latencies
and shares of the bandwidth: its tuning model (`ncclTopoTuneModel` and `ncclTopoGetAlgoTime` in
src/graph/tuning.cc of NVIDIA/nccl) has 2 (n - N) + 2 (N - 1) hops and n / (2 (n - 1)) of the
bandwidth for a ring, 2 (g - 1) + 2 floor(log2 N) hops and half of the bandwidth for a tree. What is
left out of it:
its tables of measured latencies (a cluster's links state theirs), its protocols LL and LL128, which
trade bandwidth for latency, its factors for trees of medium size and for long rings, channels, and
the algorithms that need special switches (CollNet, NVLS).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import floor, log2

from systems.clusters.racks import AllReduce
from systems.clusters.topology import Interface, Topology


@dataclass(frozen=True)
class Phase:
    """Messages that progress together."""

    loads: Mapping[Interface, float]
    """Bytes through every interface."""
    latency_s: float
    """What follows the last byte."""


def messages(
    topology: Topology, sizes: Iterable[tuple[int, int, float]], rounds: int = 1
) -> list[Phase]:
    """Messages of (source, target, bytes) at one pace, which are one phase.

    Args:
        rounds: how many of them follow one another, each with its latency.
    """
    loads: defaultdict[Interface, float] = defaultdict(float)
    latency_s = 0.0
    for source, target, size_bytes in sizes:
        latency_s = max(latency_s, topology.path_latency_s(source, target))
        for interface in topology.path(source, target):
            loads[interface] += size_bytes
    return [Phase(loads, rounds * latency_s)]


def exchange(
    topology: Topology, ranks: Sequence[int], size_bytes: float, rounds: int
) -> list[Phase]:
    """Every rank sends `size_bytes` in all, an even part to each other rank."""
    n = len(ranks)
    if n < 2:
        return [Phase({}, 0.0)]
    nodes = Counter(topology.node_of[rank] for rank in ranks)
    racks = Counter(topology.rack_of[topology.node_of[rank]] for rank in ranks)
    loads: dict[Interface, float] = {}
    for rank in ranks:
        if topology.ports[topology.node_of[rank]] is not None:
            loads |= dict.fromkeys([(rank, "port out"), (rank, "port in")], size_bytes)
    # What leaves a node: the parts of its g ranks for the n - g others. So for racks.
    for counts, ways in ((nodes, ("out", "in")), (racks, ("up", "down"))):
        for number, g in counts.items() if len(counts) > 1 else ():
            loads |= {(number, way): size_bytes / (n - 1) * g * (n - g) for way in ways}
    if len(nodes) == 1:
        return [Phase(loads, rounds * topology.path_latency_s(ranks[0], ranks[1]))]
    latency_s = max(topology.links[node].latency_s for node in nodes)
    if len(racks) > 1:
        latency_s += max(topology.uplinks[rack].latency_s for rack in racks)
    return [Phase(loads, rounds * latency_s)]


def all_reduce(
    topology: Topology, ranks: Sequence[int], size_bytes: float, algorithm: AllReduce | None = None
) -> list[Phase]:
    """The phases in which ranks sum `size_bytes`; see [Note: three ways to sum].

    Args:
        algorithm: None takes that of the topology.
    """
    ranks, algorithm = sorted(ranks), algorithm or topology.all_reduce
    if len(ranks) < 2:
        return [Phase({}, 0.0)]
    if algorithm == "tree":
        return [_tree(topology, ranks, size_bytes)]
    if algorithm == "hierarchical":
        return _hierarchical(topology, ranks, size_bytes)
    ring = [_ring(topology, ranks, size_bytes)]
    if algorithm == "ring":
        return ring
    tree = [_tree(topology, ranks, size_bytes)]
    return min(ring, tree, key=lambda phases: alone_s(topology, phases))


def alone_s(topology: Topology, phases: Iterable[Phase]) -> float:
    """The seconds of phases that follow one another, on links that carry nothing else."""
    return sum(
        phase.latency_s
        + max((size / topology.bytes_per_s(i) for i, size in phase.loads.items()), default=0.0)
        for phase in phases
    )


def _ring(topology: Topology, ranks: Sequence[int], size_bytes: float) -> Phase:
    """A ring through all ranks, in their order."""
    n = len(ranks)
    moved = 2 * (n - 1) / n * size_bytes
    hops = list(zip(ranks, [*ranks[1:], ranks[0]], strict=True))
    (phase,) = messages(topology, [(a, b, moved) for a, b in hops])
    # A piece goes round twice, but for the last hop each time: the longest, which closes the ring.
    seconds = sorted(topology.path_latency_s(a, b) for a, b in hops)
    return Phase(phase.loads, 2 * sum(seconds[:-1]))


def _tree(topology: Topology, ranks: Sequence[int], size_bytes: float) -> Phase:
    """Two binary trees of nodes, each node a chain of its ranks."""
    members = _by_node(topology, ranks)
    nodes, racks = list(members), {topology.rack_of[node] for node in members}
    ported = [rank for rank in ranks if topology.ports[topology.node_of[rank]] is not None]
    loads: dict[Interface, float] = {}
    for numbers, among, ways in (
        (ported, len(ranks), ("port out", "port in")),
        (nodes, len(nodes), ("out", "in")),
        (list(racks), len(racks), ("up", "down")),
    ):
        for number in numbers if among > 1 else ():
            loads |= {(number, way): size_bytes * min(2, among - 1) for way in ways}
    hop_s = max((topology.between_s(a, b) for a, b in pairwise(nodes)), default=0.0)
    latency_s = _chain_s(topology, members) + 2 * floor(log2(len(nodes))) * hop_s
    return Phase(loads, latency_s)


def _hierarchical(topology: Topology, ranks: Sequence[int], size_bytes: float) -> list[Phase]:
    """Reduce-scatter inside nodes, rings between them, all-gather inside."""
    members = list(_by_node(topology, ranks).values())
    g = len(members[0])
    if any(len(here) != g for here in members):
        return [_ring(topology, ranks, size_bytes)]
    ports = [(rank, f"port {way}") for rank in ranks for way in ("out", "in")] if g > 1 else []
    part = Phase(
        dict.fromkeys(ports, size_bytes * (g - 1) / g),
        _chain_s(topology, dict(enumerate(members))) / 2,
    )
    if len(members) == 1:
        return [part, part]
    rings = [_ring(topology, [here[i] for here in members], size_bytes / g) for i in range(g)]
    loads: defaultdict[Interface, float] = defaultdict(float)
    for ring in rings:
        for interface, size in ring.loads.items():
            loads[interface] += size
    between = Phase(loads, max(ring.latency_s for ring in rings))
    return [part, between, part] if g > 1 else [between]


def _by_node(topology: Topology, ranks: Sequence[int]) -> dict[int, list[int]]:
    """The ranks by their nodes."""
    members: dict[int, list[int]] = {}
    for rank in ranks:
        members.setdefault(topology.node_of[rank], []).append(rank)
    return members


def _chain_s(topology: Topology, members: Mapping[int, Sequence[int]]) -> float:
    """The latency of the longest way through the ranks of a node and back."""
    return max(
        2 * (len(here) - 1) * topology.path_latency_s(here[0], here[-1])
        for here in members.values()
    )
