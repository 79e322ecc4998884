"""What the tasks of all schemes have in common: repeated steps, buckets, rings.

Tasks are written for classes of interchangeable ranks (`systems.rank_classes`).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from stanza.exchanges.names import WHOLE, Compression
from stanza.planner.predict import BUCKET_BYTES
from systems.clusters.cluster import Link
from systems.clusters.host import FREE, Host
from systems.clusters.links import Links
from systems.clusters.topology import Topology
from systems.fair_links import CORES, Resource
from systems.faulty import Network, simulate_on
from systems.program import Program
from systems.rank_classes import RankClass, rank_classes, titled
from systems.simulate import core_seconds
from systems.simulation import Timeline

STEPS = 5
"""The number of steps that are played, unless faults come and go. The time between the ends of the
last two is the step time."""

HELD_STEPS = 12
"""The number where ranks are held: quotas make steps differ, and the mean counts."""

Segment = tuple[float, float]
"""A piece of the backward pass: its seconds, and the gradient bytes that it makes ready to send."""


@dataclass(frozen=True)
class Simulated:
    """The steps of a scheme, as the simulator has played them."""

    step_s: float
    """Seconds from one step to the next."""
    samples: int
    """The number of samples in one step over all workers."""
    timeline: Timeline
    """When each task began and ended, on one rank of each class."""
    steps_s: tuple[float, ...]
    """Seconds of every step that was played."""
    classes: Sequence[RankClass]
    """The classes of interchangeable ranks."""

    def spans(self) -> Iterator[tuple[str, str, float, float]]:
        """The spans of a trace, (track, name, start, end) in seconds."""
        return titled(self.timeline.spans(), self.classes)

    @property
    def samples_per_s(self) -> float:
        """The simulated throughput, over all workers."""
        return self.samples / self.step_s

    def resources(self, network: Link | Links | Host) -> dict[str, float]:
        """The busy seconds in one step of the busiest compute and the busiest network interface, or
        of all cores where ranks share them freely. A rank that is held computes as slowly as its
        share says."""
        steps = len(self.steps_s)
        if isinstance(network, Host) and not network.is_shaped:
            core_s = sum(core_seconds(task, network).get(CORES, 0) for task in self.timeline.tasks)
            return {"cores": core_s / network.cores / steps}
        streams: defaultdict[str, float] = defaultdict(float)
        interfaces: defaultdict[Resource, float] = defaultdict(float)
        for task in self.timeline.tasks:
            if task.stream is not None:
                streams[task.stream] += task.seconds
            for interface, size_bytes in task.loads.items():
                interfaces[interface] += size_bytes
        speed = network.share or 1.0 if isinstance(network, Host) else 1.0
        compute_s = max(streams.values()) / speed
        if isinstance(network, Links):
            busy = [network.seconds_at(node, size) for (node, _), size in interfaces.items()]
        else:
            busy = [network.seconds(max(interfaces.values(), default=0.0))]
        return {"compute": compute_s / steps, "network": max(busy, default=0.0) / steps}


def segments(backward: Sequence[Segment], least_bytes: float) -> list[Segment]:
    """Join layers, in backward order, into buckets of at least `least_bytes`."""
    joined: list[Segment] = []
    seconds = size = 0.0
    for layer_s, layer_bytes in backward:
        seconds, size = seconds + layer_s, size + layer_bytes
        if size >= least_bytes:
            joined.append((seconds, size))
            seconds = size = 0.0
    if seconds or size:
        joined.append((seconds, size))
    return joined


def buckets(backward: Sequence[Sequence[Segment]], least_bytes: float) -> list[tuple[Segment, ...]]:
    """The buckets of at least `least_bytes` of several ranks.

    Returns:
        A row for each bucket, with that of every rank: they have the same bytes, and each the
        seconds of the rank's own share.
    """
    of_layers = {layers: segments(layers, least_bytes) for layers in map(tuple, backward)}
    return list(zip(*(of_layers[tuple(layers)] for layers in backward), strict=True))


def backward_tasks(
    program: Program,
    bucket: Sequence[Segment],
    classes: Sequence[RankClass],
    after: Sequence[int],
    name: str,
) -> list[int]:
    """Add the piece of the backward pass that fills a bucket, for every class of ranks, after its
    task in `after`."""
    return [
        program.compute(stream(one.played), seconds, name=name, after=[before])
        for one, (seconds, _), before in zip(classes, bucket, after, strict=True)
    ]


def worker_classes(shares: Sequence[int], *, every_rank: bool) -> list[RankClass]:
    """The classes of workers that all have the whole model: those with equally many samples.

    Args:
        shares: the number of samples of each worker.
        every_rank: every worker is a class of its own.
    """
    return rank_classes(range(len(shares)), lambda rank: rank if every_rank else shares[rank])


def one_by_one(network: Network) -> bool:
    """Whether every rank is played, also those that do the same: where ranks share the cores of one
    machine, have links of their own, or are on a topology, each takes its own part of them."""
    return not isinstance(network, Link)


def stream(rank: int) -> str:
    """The name of a rank's compute stream, which all its roles share."""
    return f"rank {rank}"


def steps_on(network: Network) -> int:
    """Return how many steps are played to find out how long one takes."""
    return HELD_STEPS if isinstance(network, Host) and network.share is not None else STEPS


def memory_of(network: Network) -> Host:
    """Return what a step takes for copies, sums and updates: what a probe has measured of one
    machine, and nothing on a cluster, of whose devices no profile says it."""
    return network if isinstance(network, Host) else FREE


def update_s(memory: Host, backward: Sequence[Segment]) -> float:
    """The core seconds in which an optimizer updates these layers, each a weight and a bias."""
    return sum(memory.update.seconds(size, 2) for _, size in backward if size)


def sums_s(memory: Host, backward: Sequence[Segment]) -> float:
    """The core seconds in which the gradients of these layers are added to others."""
    return sum(memory.add.seconds(size, 2) for _, size in backward if size)


def work(program: Program, stream: str, seconds: float, name: str, after: Sequence[int]) -> int:
    """Add work on a stream, or a point in time where it takes none."""
    if seconds:
        return program.compute(stream, seconds, name=name, after=after)
    return program.join(after, name=name)


def updates(
    program: Program,
    memory: Host,
    backward: Sequence[Sequence[Segment]],
    classes: Sequence[RankClass],
    after: Sequence[int],
) -> list[int]:
    """Add the update of its layers for every class of ranks."""
    return [
        work(program, stream(one.played), update_s(memory, layers), "update", after)
        for one, layers in zip(classes, backward, strict=True)
    ]


def ring_backward(
    program: Program,
    memory: Host,
    backward: Sequence[Sequence[Segment]],
    classes: Sequence[RankClass],
    after: Sequence[int],
    name: str,
    compression: Compression = WHOLE,
) -> int:
    """Add the backward passes of classes of ranks, with a ring all-reduce of every bucket that
    fills.

    Args:
        backward: for each class its layers, in backward order.
        after: for each class the task after which its backward pass starts.
        compression: how much travels of the gradients; an all-gather may stand for the all-reduce.

    Returns:
        The task with which all passes and all-reduces have ended.
    """
    now, wire = list(after), list[int]()
    nodes, ranks = [one.played for one in classes], sum(one.count for one in classes)
    if ranks > 1:  # gradients are added to those in the buckets
        backward = [[(s + sums_s(memory, [(s, b)]), b) for s, b in layers] for layers in backward]
    for row in buckets(backward, BUCKET_BYTES):
        now = backward_tasks(program, row, classes, now, name)
        size = row[0][1]
        if ranks > 1 and size:
            ready = [*now, *wire[-1:]]
            if compression.gathered:
                moved, rounds = compression.moved_bytes(size, ranks), compression.messages(ranks)
                task = program.exchange(nodes, moved, messages=rounds, name=name, after=ready)
            else:
                sent = size * compression.factor
                task = program.all_reduce(nodes, sent, ranks=ranks, name=name, after=ready)
            wire.append(task)
    return program.join([*now, *wire[-1:]], name="step")


def played(
    program: Program,
    ends: Sequence[int],
    samples: int,
    network: Network,
    classes: Sequence[RankClass],
) -> Simulated:
    """Play the program and read off the step time: that of the steady state, or a mean where faults
    or the quotas of ranks make steps differ.

    Args:
        ends: the task with which each step ends.
        samples: the number of samples in one step over all workers.
        classes: the classes of ranks for which the program was written.
    """
    timeline = simulate_on(program, network)
    ends_s = [timeline.ends_s[end] for end in ends]
    steps_s = tuple(end_s - start_s for start_s, end_s in pairwise([0.0, *ends_s]))
    step_s = steps_s[-1]
    if isinstance(network, Topology) and network.faults:
        step_s = ends_s[-1] / len(ends)
    elif isinstance(network, Host) and network.share is not None and len(ends) > 1:
        step_s = (ends_s[-1] - ends_s[0]) / (len(ends) - 1)
    return Simulated(
        step_s=step_s, samples=samples, timeline=timeline, steps_s=steps_s, classes=classes
    )
