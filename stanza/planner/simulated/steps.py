"""What all schedules are made of: steps repeated until they are steady, buckets, rings."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from stanza.planner.predict import BUCKET_BYTES
from systems.clusters.cluster import Link
from systems.fair_links import Interface
from systems.simulate import Program, Timeline, simulate

STEPS = 5
"""A step is repeated this often; the period of the last two is the step time."""

Segment = tuple[float, float]
"""Backward seconds and then parameter bytes that are ready to be exchanged."""


@dataclass(frozen=True)
class Simulated:
    """A scheme's steps, played out."""

    step_s: float
    samples: int
    """Samples of one step over all workers."""
    timeline: Timeline

    @property
    def samples_per_s(self) -> float:
        """Throughput."""
        return self.samples / self.step_s

    def resources(self, link: Link) -> dict[str, float]:
        """Busy seconds of the busiest node's compute, and of the busiest network interface, in one
        step."""
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
    """Layers in backward order, joined into buckets of at least this size."""
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


def stream(rank: int) -> str:
    """The compute stream of a rank, which all its roles share."""
    return f"rank {rank}"


def ring_backward(
    program: Program,
    backward: Sequence[Segment],
    ranks: Sequence[int],
    after: Sequence[int],
    name: str,
) -> int:
    """Backward passes of `ranks` (each after its own task of `after`), their gradients all-reduced
    bucket by bucket; returns the end of both."""
    n, now, wire = len(ranks), list(after), list[int]()
    for seconds, size in segments(backward, BUCKET_BYTES):
        now = [
            program.compute(stream(rank), seconds, name=name, after=[before])
            for rank, before in zip(ranks, now, strict=True)
        ]
        if n > 1 and size:
            ring_bytes, messages = 2 * size * (n - 1) / n, 2 * (n - 1)
            ready = [*now, *wire[-1:]]
            wire.append(
                program.exchange(ranks, ring_bytes, messages=messages, name=name, after=ready)
            )
    return program.join([*now, *wire[-1:]], name="step")


def played(program: Program, ends: Sequence[int], samples: int, link: Link) -> Simulated:
    """Play steps that end with the tasks `ends`, each of `samples` over all workers."""
    timeline = simulate(program, link)
    period_s = timeline.ends_s[ends[-1]] - timeline.ends_s[ends[-2]]
    return Simulated(step_s=period_s, samples=samples, timeline=timeline)
