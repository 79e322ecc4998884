"""The plans to beat: what one does without a planner, and what earlier planners answer."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from sparsepipe.planner.contiguous import best_contiguous
from sparsepipe.planner.costs import Costs, DeviceClass, Floats
from sparsepipe.planner.stages import PlannedStage, Replica, ScheduleChoice
from systems.clusters.cluster import Link

AUTHORS_MOST = 256
"""The most devices for which SparsePipe's published planner is asked: its search grows with their
square, and would take minutes."""


def one_device(costs: Costs, schedule: ScheduleChoice) -> tuple[PlannedStage, ...]:
    """One stage: the fastest device takes everything."""
    fastest = int(costs.layer_s.sum(axis=1).argmin())
    return (_stage(costs, 0, costs.layers, costs.classes[fastest].ranks[:1], [1.0]),)


def equal_data_parallel(costs: Costs, schedule: ScheduleChoice) -> tuple[PlannedStage, ...]:
    """One stage: every device has the whole model and an equal share, as in PyTorch's DDP."""
    ranks = sorted(costs.class_of)
    return (_stage(costs, 0, costs.layers, ranks, [1 / len(ranks)] * len(ranks)),)


def proportional_data_parallel(costs: Costs, schedule: ScheduleChoice) -> tuple[PlannedStage, ...]:
    """One stage: every device has the whole model and a share in proportion to its speed."""
    ranks = sorted(costs.class_of)
    total = costs.layer_s.sum(axis=1)
    speed = np.array([1 / max(total[costs.class_of[rank]], 1e-300) for rank in ranks])
    return (_stage(costs, 0, costs.layers, ranks, list(speed / speed.sum())),)


def equal_split(costs: Costs, schedule: ScheduleChoice) -> tuple[PlannedStage, ...]:
    """A stage for every device, by rank; all have equally many layers, or one more."""
    ranks = sorted(costs.class_of)[: costs.layers]
    edges = [round(i * costs.layers / len(ranks)) for i in range(len(ranks) + 1)]
    return tuple(
        _stage(costs, i, j, [rank], [1.0])
        for rank, i, j in zip(ranks, edges, edges[1:], strict=False)
    )


def homogeneous(costs: Costs, schedule: ScheduleChoice) -> tuple[PlannedStage, ...] | None:
    """The answer of a planner that takes all devices for equal.

    It is the best plan for devices that are all like the mean device, executed on the real devices
    in the order of their ranks. None where the memory of the mean device does not suffice.
    """
    sizes = [len(group.ranks) for group in costs.classes]

    def mean(times: Floats) -> Floats:
        """[1, L + 1]: the times of the mean device."""
        return np.average(times, axis=0, weights=sizes)[None]

    alike = DeviceClass(
        kind="mean",
        memory_bytes=min(group.memory_bytes for group in costs.classes),
        link=Link(
            bandwidth_bits_per_s=8 / max(group.seconds_per_byte for group in costs.classes),
            latency_s=max(group.link.latency_s for group in costs.classes),
        ),
        ranks=tuple(sorted(costs.class_of)),
    )
    equal_devices = dataclasses.replace(
        costs,
        classes=(alike,),
        forward_s=mean(costs.forward_s),
        backward_s=mean(costs.backward_s),
        fixed_forward_s=mean(costs.fixed_forward_s),
        fixed_backward_s=mean(costs.fixed_backward_s),
        update_s=mean(costs.update_s),
    )
    stages = best_contiguous(equal_devices, schedule)
    if stages is None:
        return None
    return tuple(_stage(costs, s.first, s.end, s.ranks, s.shares) for s in stages)


def authors(costs: Costs, schedule: ScheduleChoice) -> tuple[PlannedStage, ...] | None:
    """The answer of SparsePipe's published planner (its hybrid optimizer).

    It uses all devices, in one fixed order: the kind with most devices first. Replicas have equal
    shares, and the slowest one decides. A stage behind the first has 1 or an even number of
    replicas, fewer than there are devices before it. Transfers between stages are ignored. None for
    more devices than `AUTHORS_MOST`.
    """
    if len(costs.class_of) > AUTHORS_MOST:
        return None
    groups = sorted(costs.classes, key=lambda group: -len(group.ranks))
    ranks = [rank for group in groups for rank in group.ranks]
    of_rank = [costs.class_of[rank] for rank in ranks]
    seconds = costs.forward_s + costs.backward_s
    per_byte = max(group.seconds_per_byte for group in groups)

    def stage_s(i: int, j: int, start: int, end: int) -> float:
        """The seconds of the layers i .. j - 1 as a stage on the devices start .. end - 1."""
        many = end - start
        compute = max(seconds[c, j] - seconds[c, i] for c in set(of_rank[start:end]))
        weights = costs.parameter_bytes[j] - costs.parameter_bytes[i]
        return float(compute + 2 * (many - 1) / many * weights * per_byte) / many

    @functools.cache
    def best(j: int, devices: int) -> tuple[float, tuple[tuple[int, int], ...]]:
        """The best plan for the layers before j on the first `devices` devices.

        Returns its seconds, and (first layer, first device) of every stage but the first.
        """
        fastest: tuple[float, tuple[tuple[int, int], ...]] = (stage_s(0, j, 0, devices), ())
        for many in range(1, (devices - 1) // 2 + 1):
            if many > 1 and many % 2:
                continue
            for i in reversed(range(1, j)):
                last_s = stage_s(i, j, devices - many, devices)
                if last_s >= fastest[0]:  # longer last stages only take longer
                    break
                before_s, before = best(i, devices - many)
                if max(before_s, last_s) < fastest[0]:
                    fastest = (max(before_s, last_s), (*before, (i, devices - many)))
        return fastest

    starts = [(0, 0), *best(costs.layers, len(ranks))[1]]
    ends = [*starts[1:], (costs.layers, len(ranks))]
    return tuple(
        _stage(costs, i, j, sorted(ranks[a:b]), [1 / (b - a)] * (b - a))
        for (i, a), (j, b) in zip(starts, ends, strict=True)
    )


Baseline = Callable[[Costs, ScheduleChoice], tuple[PlannedStage, ...] | None]
"""A function that answers with stages, or with None if it has no answer."""
BASELINES: dict[str, Baseline] = {
    "one device": one_device,
    "data parallel, equal shares": equal_data_parallel,
    "data parallel, shares by speed": proportional_data_parallel,
    "equal split by layers": equal_split,
    "homogeneous planner": homogeneous,
    "authors' planner": authors,
}


def _stage(
    costs: Costs, first: int, end: int, ranks: Sequence[int], shares: Sequence[float]
) -> PlannedStage:
    """The layers first, ..., end - 1 on `ranks` with these shares."""
    replicas = tuple(
        Replica(rank=rank, device=costs.classes[costs.class_of[rank]].kind, share=float(share))
        for rank, share in zip(ranks, shares, strict=True)
    )
    return PlannedStage(first=first, end=end, replicas=replicas)
