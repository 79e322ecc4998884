"""Small planning problems, and their answer by trying everything.

The reference follows the description of the cost model in `sparsepipe.planner.predict`, device by
device and layer by layer, and shares no code with the planner.
"""

import functools
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from sparsepipe.schedule.lists import ALL_REDUCE_PARTS
from systems.clusters.cluster import Cluster, Device, Link, Node
from systems.profiles.profile import LayerProfile, ModelProfile


@dataclass(frozen=True)
class Case:
    """A planning problem: a model's profiles by kind of device, the devices, and a schedule."""

    profiles: dict[str, ModelProfile]
    cluster: Cluster
    schedule: str
    micro_batches: int


def random_case(rng: random.Random, most_layers: int = 8, most_devices: int = 4) -> Case:
    """A random problem: layers with skip connections, and devices of up to three kinds.

    Links may be equal or not, memory scarce or not, and layers may have a fixed part of time.
    """
    count = rng.randint(1, most_layers)
    sizes = [(rng.randint(0, 400), rng.randint(0, 300)) for _ in range(count)]
    reads = []
    for i in range(count):
        skips = {f"l{j}" for j in range(i - 1) if rng.random() < 0.15}
        reads.append(tuple(sorted(skips | ({f"l{i - 1}"} if i else set()))))
    with_fixed = rng.random() < 0.4
    kinds = ["A", "B", "C"][: rng.randint(1, 3)]
    profiles = {}
    for kind in kinds:
        layers = []
        for i in range(count):
            forward, backward = rng.randint(1, 20) / 10, rng.randint(1, 20) / 10
            fixed = rng.random() * 0.5 if with_fixed else 0.0
            layers.append(
                LayerProfile(
                    name=f"l{i}",
                    operation="layer",
                    forward_s=forward,
                    backward_s=backward,
                    activation_bytes=sizes[i][0],
                    parameter_bytes=sizes[i][1],
                    inputs=reads[i],
                    fixed_forward_s=forward * fixed,
                    fixed_backward_s=backward * fixed,
                )
            )
        profiles[kind] = ModelProfile(
            name="random", device=kind, batch_size=16, source="drawn", layers=tuple(layers)
        )
    schedule = rng.choice(["1f1b-async", "1f1b-async", "1f1b"])
    micro_batches = rng.choice([1, 2, 4]) if schedule == "1f1b" else 1
    return Case(profiles, random_cluster(rng, kinds, most_devices), schedule, micro_batches)


def random_cluster(rng: random.Random, kinds: list[str], most_devices: int) -> Cluster:
    """Draw a cluster: one node of several devices, or nodes of one device with links of their
    own."""

    def link() -> Link:
        return Link(bandwidth_bits_per_s=rng.choice([400.0, 2000.0, 40000.0]), latency_s=0.01)

    def memory() -> int | None:
        return rng.choice([None, 6000, 3000, 1500])

    number = rng.randint(1, most_devices)
    chosen = [rng.choice(kinds) for _ in range(number)]
    limits = {kind: memory() for kind in kinds}
    if rng.random() < 0.5:
        devices = tuple(Device(kind=kind, memory_bytes=limits[kind]) for kind in chosen)
        shared = Node(name="n", devices=devices, link=link(), device_link=link())
        return Cluster(name="one node", source="drawn", nodes=(shared,))
    nodes = tuple(
        Node(name=f"n{i}", devices=(Device(kind=kind, memory_bytes=limits[kind]),), link=link())
        for i, kind in enumerate(chosen)
    )
    return Cluster(name="nodes", source="drawn", nodes=nodes)


def brute_force(case: Case) -> float:
    """The step time of the best of all plans in which every device has at most one stage.

    Infinite if no plan fits into memory.
    """
    layers = len(next(iter(case.profiles.values())).layers)
    devices = _devices(case.cluster)
    flushes = case.schedule != "1f1b-async"
    latency = max(link.latency_s for _, _, link in devices)

    @functools.cache
    def times(i: int, j: int, members: tuple[int, ...], left: int) -> tuple[float, float] | None:
        return _stage(case, devices, i, j, members, left)

    best = math.inf
    for members in _assignments(len(devices), layers):
        s = len(members)
        for inner in itertools.combinations(range(1, layers), s - 1):
            edges = [0, *inner, layers]
            stages = [times(edges[k], edges[k + 1], members[k], s - k) for k in range(s)]
            if None in stages:
                continue
            # Who flushes fills and drains the pipeline in every step; else the busiest decides.
            fill = sum(stage[0] for stage in stages if stage) + 2 * latency * (s - 1)
            busy = max(stage[1] for stage in stages if stage)
            best = min(best, fill + busy if flushes else busy)
    return best


def _devices(cluster: Cluster) -> list[tuple[str, float, Link]]:
    """The kind, the memory in bytes (infinite where unlimited) and the link of every device."""
    listed = []
    for node in cluster.nodes:
        for device in node.devices:
            alone = len(cluster.nodes) > 1 or len(node.devices) == 1
            link = node.link if alone else (node.device_link or node.link)
            listed.append((device.kind, device.memory_bytes or math.inf, link))
    return listed


def _assignments(devices: int, layers: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Yield every way to give devices to the stages of a pipeline, none left empty; some may
    idle."""
    for stages in range(1, min(devices, layers) + 1):
        for place in itertools.product(range(stages + 1), repeat=devices):
            members = [tuple(d for d in range(devices) if place[d] == s) for s in range(stages)]
            if all(members):
                yield tuple(members)


def _stage(
    case: Case,
    devices: list[tuple[str, float, Link]],
    i: int,
    j: int,
    members: tuple[int, ...],
    left: int,
) -> tuple[float, float] | None:
    """The fill and the busy seconds of a stage; None if it does not fit into memory.

    The stage has the layers i to j - 1, replicated on the devices `members`; it is the `left`-th
    stage from the end. "Fill" is what the first micro-batch adds to the step while the pipeline
    fills and drains, and "busy" is the time in which the slowest replica or link has work.
    """
    m, flushes, r = case.micro_batches, case.schedule != "1f1b-async", len(members)
    layers = next(iter(case.profiles.values())).layers
    weights = sum(layer.parameter_bytes for layer in layers[i:j])
    into, out = _crossing(layers, i), _crossing(layers, j)
    in_flight = min(m, left) / m if flushes else left
    activations = in_flight * (sum(layer.activation_bytes for layer in layers[i:j]) + into)
    state = weights * ((1 if flushes else left) + 2)
    # A line for each replica: forward and backward seconds per share, their fixed parts, seconds
    # of messages per share, seconds of the all-reduce, and the largest share that fits in memory.
    lines: list[tuple[float, ...]] = []
    for d in members:
        kind, memory, link = devices[d]
        own = case.profiles[kind].layers[i:j]
        fixed_forward = sum(x.fixed_forward_s for x in own)
        fixed_backward = sum(x.fixed_backward_s for x in own)
        forward = sum(x.forward_s for x in own) - fixed_forward
        backward = sum(x.backward_s for x in own) - fixed_backward
        assert link.bandwidth_bits_per_s
        ring = 2 * (r - 1) / r * weights * 8 / link.bandwidth_bits_per_s
        transfer = (into + out) * 8 / link.bandwidth_bits_per_s
        room = (memory - state) / activations if activations else math.inf
        limit = (1.0 if room >= 0 else -1.0) if not activations else min(1.0, room)
        lines.append(
            (forward, backward, fixed_forward * m, fixed_backward * m, transfer, ring, limit)
        )
    shares = _shares(lines, flushes)
    if shares is None:
        return None
    compute = [f + b + (v + w) * x for x, (v, w, f, b, *_) in zip(shares, lines, strict=True)]
    moved = [line[4] * x for x, line in zip(shares, lines, strict=True)]
    if not flushes:
        return 0.0, max(
            max(c, t + line[5]) for c, t, line in zip(compute, moved, lines, strict=True)
        )
    backward = max(line[3] + line[1] * x for x, line in zip(shares, lines, strict=True))
    busy = [
        (m - 1) / m * max(c, t) + max(line[5] - backward / m, line[5] / ALL_REDUCE_PARTS)
        for c, t, line in zip(compute, moved, lines, strict=True)
    ]
    return (max(compute) + max(moved)) / m, max(busy)


def _crossing(layers: tuple[LayerProfile, ...], cut: int) -> float:
    """The bytes of the activations that cross a cut: layers before it that layers after it read."""
    read = {name for layer in layers[cut:] for name in layer.inputs}
    return sum(layer.activation_bytes for layer in layers[:cut] if layer.name in read)


def _shares(lines: list[tuple[float, ...]], flushes: bool) -> list[float] | None:
    """The replicas' shares of a mini-batch with which all are done soonest, by bisection.

    None if a replica has nothing to do, or memory does not allow the shares. Every line describes a
    replica as `_stage` lists it.
    """

    def at(until: float) -> list[float]:
        """The share that every replica can do until a time."""
        shares = []
        for forward, backward, fixed_f, fixed_b, transfer, ring, limit in lines:
            # The largest share whose passes end in time, and then whose transfers end in time.
            # Beside these there is the ring, but not in a schedule that flushes.
            x = (until - fixed_f - fixed_b) / (forward + backward)
            if transfer:
                x = min(x, (until - (0 if flushes else ring)) / transfer)
            elif not flushes and until < ring:
                x = -1.0
            shares.append(min(x, limit))
        return shares

    low, high = 0.0, 1e6
    if sum(at(high)) < 1 or min(line[-1] for line in lines) <= 0:
        return None
    # Shares grow with the time: find the time at which together they are one mini-batch.
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(max(0.0, x) for x in at(middle)) >= 1 else (middle, high)
    shares = at(high)
    return None if min(shares) <= 0 else shares
