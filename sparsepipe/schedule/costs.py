"""What a micro-batch costs at each stage of a pipeline, computed from profiles of the layers.

    costs = stage_costs(profiles, bounds, stages, shares, cut_bytes, micro_batches=1)

`sparsepipe.schedule.play` simulates a schedule with these costs.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil

from sparsepipe.schedule.lists import StageRanks
from systems.clusters.cluster import Link
from systems.profiles.profile import ModelProfile


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What one micro-batch costs at a stage: seconds and bytes."""

    forward_s: tuple[float, ...]
    """The seconds that each replica's forward pass takes, for its share of the samples."""
    backward_s: tuple[float, ...]
    """The same for the backward pass, with its part of the update that a mini-batch ends with."""
    shares: tuple[float, ...]
    """The part of the samples that each replica takes; they sum to 1."""
    output_bytes: float = 0.0
    """The activations of all samples that cross to the next stage."""
    gradient_bytes: float = 0.0
    """The gradients that come back for them."""
    parameter_bytes: float = 0.0
    """The stage's parameters: as many bytes of gradients are summed over the replicas."""


def stage_costs(
    profiles: Mapping[int, ModelProfile],
    bounds: Sequence[tuple[int, int]],
    stages: StageRanks,
    shares: Sequence[Sequence[float]],
    cut_bytes: Sequence[float],
    micro_batches: int = 1,
) -> list[StageCost]:
    """The costs of all stages of a pipeline.

    Args:
        profiles: for each rank, the profile of its device, all at the size of the mini-batch.
        bounds: (first, end) of each stage: it has the layers first, ..., end - 1.
        stages: the ranks that hold each stage.
        shares: for each stage, the shares of its replicas.
        cut_bytes: [layers + 1] what crosses a cut before each layer, for the mini-batch.
    """

    def seconds(rank: int, stage: int, share: float, *, backward: bool) -> float:
        """One pass of a micro-batch: a fixed part, and a part that grows with the samples."""
        first, end = bounds[stage]
        layers = profiles[rank].layers[first:end]
        whole = sum(x.backward_s if backward else x.forward_s for x in layers)
        fixed = sum(x.fixed_backward_s if backward else x.fixed_forward_s for x in layers)
        update_s = sum(x.update_s for x in layers) if backward else 0.0
        return fixed + ((whole - fixed) * share + update_s) / micro_batches

    costs = []
    for stage, (ranks, parts) in enumerate(zip(stages, shares, strict=True)):
        first, end = bounds[stage]
        pairs = list(zip(ranks, parts, strict=True))
        crossing = cut_bytes[end] / micro_batches if stage < len(stages) - 1 else 0.0
        layers = profiles[ranks[0]].layers[first:end]
        costs.append(
            StageCost(
                forward_s=tuple(seconds(r, stage, x, backward=False) for r, x in pairs),
                backward_s=tuple(seconds(r, stage, x, backward=True) for r, x in pairs),
                shares=tuple(parts),
                output_bytes=crossing,
                gradient_bytes=crossing,
                parameter_bytes=sum(layer.parameter_bytes for layer in layers),
            )
        )
    return costs


def busiest_s(costs: Sequence[StageCost], stages: StageRanks) -> float:
    """The seconds that the busiest rank computes for a micro-batch. No schedule can be faster."""
    busy_s: defaultdict[int, float] = defaultdict(float)
    for cost, ranks in zip(costs, stages, strict=True):
        for rank, forward_s, backward_s in zip(ranks, cost.forward_s, cost.backward_s, strict=True):
            busy_s[rank] += forward_s + backward_s
    return max(busy_s.values())


def crossings_s(costs: Sequence[StageCost], link: Link) -> list[float]:
    """The seconds in which the activations of a micro-batch pass from each stage but the last to
    the next one."""
    return [
        link.seconds(before.output_bytes * _largest_share(before, after)) + link.latency_s
        for before, after in pairwise(costs)
    ]


def _largest_share(before: StageCost, after: StageCost) -> float:
    """The part of the samples that passes through the busiest link between two stages: replicas
    send and receive side by side, each its share over a link of its own."""
    return max(*before.shares, *after.shares)


def enough_in_flight(costs: Sequence[StageCost], stages: StageRanks, link: Link) -> tuple[int, ...]:
    """About the smallest number of mini-batches in flight at each stage that hides all messages.

    A mini-batch is in flight at a stage for a round trip: the computation of this stage and all
    later ones, and the messages between them. The slowest rank begins a mini-batch every `period`
    seconds; to keep up, a stage must hold round trip / period mini-batches (Little's law). It holds
    S - s at least.

        |<-------- round trip of mini-batch 0 at stage 0 -------->|
        forward, message, forward, ..., backward, message, backward
        |<- period ->|<- period ->|<- period ->|<- period ->|        5 in flight

    The number is exact where every rank holds one stage. Ranks with several stages make others
    wait, so `sparsepipe.planner.order.fastest_schedule` tries larger numbers too.
    """
    period_s = busiest_s(costs, stages)
    trip_s, in_flight = 0.0, [1]  # at the last stage nothing is behind
    for stage in reversed(range(len(costs) - 1)):
        cost, behind = costs[stage], costs[stage + 1]
        trip_s += max(behind.forward_s) + max(behind.backward_s)
        crossing = (cost.output_bytes + cost.gradient_bytes) * _largest_share(cost, behind)
        trip_s += link.seconds(crossing) + 2 * link.latency_s
        own_s = max(cost.forward_s) + max(cost.backward_s)
        needed = ceil((trip_s + own_s) / period_s - 1e-9)
        in_flight.append(max(needed, len(costs) - stage))
    return tuple(reversed(in_flight))


def overlaps(ours: Sequence[float], theirs: Sequence[float]) -> list[list[tuple[int, float]]]:
    """For each replica of one stage, the replicas of another that it shares samples with, in order,
    and the part of all samples that it has in common with each.

    Both stages cut the samples into consecutive ranges, as long as the replicas' shares. So the
    replicas of two stages exchange what their ranges have in common:

        ours    |----- 0.5 -----|----- 0.5 -----|
        theirs  |--- 0.4 ---|-------- 0.6 ------|      [[(0, 0.4), (1, 0.1)], [(1, 0.5)]]
    """
    least = 1e-9  # less is a rounding error, for which no message is sent
    edges = list(accumulate(theirs, initial=0.0))
    common: list[list[tuple[int, float]]] = []
    first = 0  # ranges are in order: what ends before one of ours is not looked at again
    for start, end in pairwise(accumulate(ours, initial=0.0)):
        while first < len(theirs) and edges[first + 1] <= start:
            first += 1
        peers: list[tuple[int, float]] = []
        for peer in range(first, len(theirs)):
            if edges[peer] >= end:
                break
            part = min(end, edges[peer + 1]) - max(start, edges[peer])
            if part > least:
                peers.append((peer, part))
        common.append(peers)
    return common
