"""What the tasks of all schemes have in common: repeated steps, buckets, rings."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from stanza.planner.predict import BUCKET_BYTES
from systems.clusters.cluster import Link
from systems.clusters.topology import Topology
from systems.fair_links import Interface
from systems.faulty import simulate_on
from systems.simulate import Program, Timeline

STEPS = 5
"""The number of steps that are played, unless faults come and go. The time between the ends of the
last two is the step time."""

Network = Link | Topology
"""What messages cross: equal links, or the links of a topology."""

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
    """When each task began and ended."""
    steps_s: tuple[float, ...]
    """Seconds of every step that was played."""

    @property
    def samples_per_s(self) -> float:
        """The simulated throughput, over all workers."""
        return self.samples / self.step_s

    def resources(self, link: Link) -> dict[str, float]:
        """The busy seconds in one step of the busiest compute and the busiest network interface."""
        streams: defaultdict[str, float] = defaultdict(float)
        interfaces: defaultdict[Interface, float] = defaultdict(float)
        for task in self.timeline.tasks:
            if task.stream is not None:
                streams[task.stream] += task.seconds
            for interface, size_bytes in task.loads.items():
                interfaces[interface] += size_bytes
        return {
            "compute": max(streams.values()) / STEPS,
            "network": link.seconds(max(interfaces.values(), default=0.0)) / STEPS,
        }


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
    ranks: Sequence[int],
    after: Sequence[int],
    name: str,
) -> list[int]:
    """Add every rank's piece of the backward pass that fills a bucket, after its task in
    `after`."""
    return [
        program.compute(stream(rank), seconds, name=name, after=[before])
        for rank, (seconds, _), before in zip(ranks, bucket, after, strict=True)
    ]


def stream(rank: int) -> str:
    """The name of a rank's compute stream, which all its roles share."""
    return f"rank {rank}"


def ring_backward(
    program: Program,
    backward: Sequence[Sequence[Segment]],
    ranks: Sequence[int],
    after: Sequence[int],
    name: str,
) -> int:
    """Add the backward passes of `ranks`, with a ring all-reduce of every bucket that fills.

    Args:
        backward: for each rank its layers, in backward order.
        after: for each rank the task after which its backward pass starts.

    Returns:
        The task with which all passes and all-reduces have ended.
    """
    now, wire = list(after), list[int]()
    for row in buckets(backward, BUCKET_BYTES):
        now = backward_tasks(program, row, ranks, now, name)
        size = row[0][1]
        if len(ranks) > 1 and size:
            ready = [*now, *wire[-1:]]
            wire.append(program.all_reduce(ranks, size, name=name, after=ready))
    return program.join([*now, *wire[-1:]], name="step")


def played(program: Program, ends: Sequence[int], samples: int, network: Network) -> Simulated:
    """Play the program and read off the step time: that of the steady state, or the mean of all
    steps where faults come and go.

    Args:
        ends: the task with which each step ends.
        samples: the number of samples in one step over all workers.
    """
    timeline = simulate_on(program, network)
    ends_s = [timeline.ends_s[end] for end in ends]
    steps_s = tuple(end_s - start_s for start_s, end_s in pairwise([0.0, *ends_s]))
    faults = isinstance(network, Topology) and bool(network.faults)
    step_s = ends_s[-1] / len(ends) if faults else steps_s[-1]
    return Simulated(step_s=step_s, samples=samples, timeline=timeline, steps_s=steps_s)
