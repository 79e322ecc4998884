"""What a micro-batch costs at each stage of a pipeline: from profiles, for
`sparsepipe.schedule.play`.

costs = stage_costs(profiles, bounds, stages, shares, cut_bytes, micro_batches=1)
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
    """What one micro-batch costs at a stage."""

    forward_s: tuple[float, ...]
    """Of each replica, for its share of the samples."""
    backward_s: tuple[float, ...]
    shares: tuple[float, ...]
    """Of each replica, of the samples; they sum to 1."""
    output_bytes: float = 0.0
    """What crosses to the next stage, of all samples."""
    gradient_bytes: float = 0.0
    """What comes back for it."""
    parameter_bytes: float = 0.0
    """What the replicas reduce."""


def stage_costs(
    profiles: Mapping[int, ModelProfile],
    bounds: Sequence[tuple[int, int]],
    stages: StageRanks,
    shares: Sequence[Sequence[float]],
    cut_bytes: Sequence[float],
    micro_batches: int = 1,
) -> list[StageCost]:
    """The costs of stages made of layers first, ..., end - 1.

    Args:
        profiles: of every rank's device, all at the mini-batch's size.
        bounds: (first, end) of every stage.
        shares: of each stage's replicas, of the samples.
        cut_bytes: [layers + 1], what crosses a cut before each layer, for the mini-batch.
    """

    def seconds(rank: int, stage: int, share: float, *, backward: bool) -> float:
        first, end = bounds[stage]
        layers = profiles[rank].layers[first:end]
        if backward:
            whole, fixed = (
                sum(x.backward_s for x in layers),
                sum(x.fixed_backward_s for x in layers),
            )
        else:
            whole, fixed = (
                sum(x.forward_s for x in layers),
                sum(x.fixed_forward_s for x in layers),
            )
        return fixed + (whole - fixed) * share / micro_batches

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
    """What the rank with most to compute takes for a micro-batch: no schedule is faster."""
    busy_s: defaultdict[int, float] = defaultdict(float)
    for cost, ranks in zip(costs, stages, strict=True):
        for rank, forward_s, backward_s in zip(ranks, cost.forward_s, cost.backward_s, strict=True):
            busy_s[rank] += forward_s + backward_s
    return max(busy_s.values())


def enough_in_flight(costs: Sequence[StageCost], stages: StageRanks, link: Link) -> tuple[int, ...]:
    """About the fewest mini-batches in flight at each stage that keep the slowest rank busy.

    From a stage's forward to the end of its backward passes a round trip: all computation and
    messages behind it. A stage that must begin one mini-batch every `period` seconds holds
    round trip / period of them (Little's law), and S - s at least. Exact where every rank has one
    stage; ranks with several make others wait, see `sparsepipe.planner.order.fastest_schedule`.
    """
    period_s = busiest_s(costs, stages)
    trip_s, held = 0.0, [1]
    for stage in reversed(range(len(costs) - 1)):
        cost, behind = costs[stage], costs[stage + 1]
        trip_s += max(behind.forward_s) + max(behind.backward_s)
        trip_s += link.seconds(cost.output_bytes + cost.gradient_bytes) + 2 * link.latency_s
        own_s = max(cost.forward_s) + max(cost.backward_s)
        wanted = ceil((trip_s + own_s) / period_s - 1e-9)
        held.append(max(wanted, len(costs) - stage))
    return tuple(reversed(held))


def overlaps(ours: Sequence[float], theirs: Sequence[float]) -> list[list[float]]:
    """The part of all samples that each of our replicas has in common with each of theirs: both
    sides cut the samples into contiguous ranges, in their order."""
    least = 1e-9  # rounding is no message
    return [
        [
            overlap if (overlap := min(b, d) - max(a, c)) > least else 0.0
            for c, d in pairwise(accumulate(theirs, initial=0.0))
        ]
        for a, b in pairwise(accumulate(ours, initial=0.0))
    ]
