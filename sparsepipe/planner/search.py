"""The search for stages where every device is in at most one: exact, by dynamic programming.

[The dynamic programme] What a stage costs does not depend on its neighbours (see
`sparsepipe.planner.predict`). So once the first stages are chosen, the best way to go on depends
only on the layers and devices that are left, and can be tabulated once for all beginnings. Devices
of a class are interchangeable, so it is enough to count them:

    rest[i, counts] = the best value of the layers i .. L - 1 on at most `counts` devices
                    = best over j > i and used <= counts of
                          stage(i, j, used)  combined with  rest[j, counts - used]

    layers      0 . . . . i . . . . j . . . . L
                |  before | stage   |  rest   |
    devices     |         |  used   | counts - used

"Combined" is the maximum, where the busiest stage decides a step, or the sum, for the time in which
a flushing schedule fills. The table is computed from the last layer to the first, and the stages
are read off by walking it from the front (`_walk`).

Memory depends on one thing more: a stage keeps more weight versions and activations the more stages
come after it (its depth). Then `rest` gets a third index, the number of stages that are left.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import sub
from typing import Literal

import numpy as np

from sparsepipe.planner.costs import Costs, Floats
from sparsepipe.planner.predict import exposed_s, latency_s
from sparsepipe.planner.shares import LayerRanges, best_shares
from sparsepipe.planner.stages import PlannedStage, Replica, ScheduleChoice

Counts = tuple[int, ...]
Pieces = list[tuple[int, int, Counts]]
"""The stages of a plan, each as (first layer, end, number of devices of each class)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Every range of layers as a stage on some devices, by (first layer, end, depth).

    The arrays are [L + 1, L + 1, depths]; they are infinite where no such stage is possible.
    """

    fill_s: Floats
    """What the stage adds to the sum over stages; 0 if the schedule does not flush."""
    busy_s: Floats
    """What the stage gives to the maximum over stages."""


def class_sizes(costs: Costs) -> Counts:
    """The number of devices in each class."""
    return tuple(len(group.ranks) for group in costs.classes)


def best_pieces(
    costs: Costs,
    ranges: LayerRanges,
    sizes: Counts,
    schedule: ScheduleChoice,
    depths: range,
    blocks: Counts | None = None,
    lanes: int = 1,
) -> Pieces | None:
    """The best stages of the layers of `ranges`, as if nothing but memory depended on others.

    Args:
        sizes: how many devices of each class there are.
        depths: the depths to tabulate, see `Table`.
        blocks: into how many blocks the devices of each class are divided, of which stages get
            whole ones; None: every device is one.
        lanes: how many lanes get the same (`sparsepipe.planner.lanes`); divides all sizes. A stage
            that gets a single block may use fewer devices of it, each for equally many lanes.
    """
    most = blocks or sizes

    def devices(counts: Counts) -> Counts:
        """The devices in so many blocks of each class; no two stages get more than there are."""
        return tuple(
            many * (size // lanes) // of * lanes if of else 0
            for many, size, of in zip(counts, sizes, most, strict=True)
        )

    # What a stage can have, and how many blocks of each class it takes for that.
    taken = {devices(counts): counts for counts in itertools.product(*map(_up_to, most))}
    del taken[(0,) * len(sizes)]
    for counts in itertools.product((0, 1), repeat=len(sizes)):
        if sum(counts) == 1 and min(map(sub, most, counts)) >= 0:
            parts = (n for n in range(1, lanes) if lanes % n == 0)
            taken |= {tuple(n * one for one in counts): counts for n in parts}
    if not taken:
        return None
    tables = {counts: _table(costs, ranges, counts, schedule, depths) for counts in taken}
    return _best_pieces(tables, taken, most, ranges.layers, schedule)


def _up_to(most: int) -> range:
    """0, ..., most."""
    return range(most + 1)


def _table(
    costs: Costs, ranges: LayerRanges, counts: Counts, schedule: ScheduleChoice, depths: range
) -> Table:
    """The table of stages on `counts` devices of each class, at each of `depths`."""
    tables = [_at_depth(costs, ranges, counts, schedule, depth) for depth in depths]
    fill, busy = (np.stack(arrays, axis=-1) for arrays in zip(*tables, strict=True))
    return Table(fill_s=fill, busy_s=busy)


def _at_depth(
    costs: Costs, ranges: LayerRanges, counts: Counts, schedule: ScheduleChoice, depth: int
) -> tuple[Floats, Floats]:
    """Fill and busy time of every range on `counts` devices, as stage `depth` from the end."""
    present = [c for c, n in enumerate(counts) if n]
    share = best_shares(ranges, counts, schedule, depth)[present]
    replicas = sum(counts)
    forward = ranges.fixed_forward_s[present] + ranges.forward_s[present] * share
    backward = ranges.fixed_backward_s[present] + ranges.backward_s[present] * share
    transfer = ranges.transfer_s[present] * share
    all_reduce = ranges.ring_s[present] * (2 * (replicas - 1) / replicas)
    if schedule.flushes:
        # The formulas of `sparsepipe.planner.predict`, for all ranges at once.
        m = schedule.micro_batches
        exposed = exposed_s(all_reduce, backward.max(axis=0) / m)
        busy = (m - 1) / m * np.maximum(forward + backward, transfer) + exposed
        fill = ((forward + backward).max(axis=0) + transfer.max(axis=0)) / m
        fill[1:] += 2 * latency_s(costs)  # the first stage receives no message
    else:
        busy = np.maximum(forward + backward, transfer + all_reduce)
        fill = np.zeros(busy.shape[1:])
    impossible = np.isnan(share).any(axis=0) | ~np.triu(np.ones(fill.shape, dtype=bool), 1)
    return np.where(impossible, np.inf, fill), np.where(impossible, np.inf, busy.max(axis=0))


def _best_pieces(
    tables: Mapping[Counts, Table],
    taken: Mapping[Counts, Counts],
    sizes: Counts,
    layers: int,
    schedule: ScheduleChoice,
) -> Pieces | None:
    """The stages with the smallest (sum of fill times) + (maximum of busy times).

    If the schedule does not flush, there are no fill times; among equally fast plans take the one
    with the fewest stages, which stashes least. Otherwise two searches are combined: find the plan
    with the smallest fill among those whose busy time is below a ceiling, lower the ceiling, and
    repeat. That walks along the plans that no other beats in both, until none can be better:

        busy |  x  least fill
             |     x
             |         x       <- each search finds the next x to the right
             |               x least busy
             +------------------ fill
    """
    busy = {counts: table.busy_s for counts, table in tables.items()}
    quickest = _search(busy, taken, sizes, layers, "max")
    if quickest is None:
        return None
    least_busy = _objective(tables, quickest)[1]
    if not schedule.flushes:
        # Every stage that is not busier than in the quickest plan costs 1: the sum counts stages.
        once = {n: np.where(x <= least_busy, 1.0, np.inf) for n, x in busy.items()}
        return _search(once, taken, sizes, layers, "sum")
    best, best_s, ceiling = quickest, sum(_objective(tables, quickest)), np.inf
    while True:
        # The plan with the smallest fill among those that are less busy than the ceiling.
        fill = {n: np.where(t.busy_s < ceiling, t.fill_s, np.inf) for n, t in tables.items()}
        pieces = _search(fill, taken, sizes, layers, "sum")
        if pieces is None:
            return best
        fill_s, busy_s = _objective(tables, pieces)
        if fill_s + busy_s < best_s:
            best, best_s = pieces, fill_s + busy_s
        if fill_s + least_busy >= best_s:
            return best
        ceiling = min(busy_s, best_s - fill_s)  # a better plan fills no sooner than this one


def _objective(tables: Mapping[Counts, Table], pieces: Pieces) -> tuple[float, float]:
    """The sum of the stages' fill times, and the maximum of their busy times."""
    depths = next(iter(tables.values())).busy_s.shape[-1]
    places = [
        (counts, (i, j, min(len(pieces) - s, depths) - 1))
        for s, (i, j, counts) in enumerate(pieces)
    ]
    fill = sum(float(tables[counts].fill_s[place]) for counts, place in places)
    return fill, max(float(tables[counts].busy_s[place]) for counts, place in places)


def _search(
    stage_s: Mapping[Counts, Floats],
    taken: Mapping[Counts, Counts],
    sizes: Counts,
    layers: int,
    combine: Literal["max", "sum"],
) -> Pieces | None:
    """The stages with the smallest cost, by the dynamic programme above.

    rest[i, counts, depth] is the cost of the layers from i on in `depth` stages on at most `counts`
    devices. If the tables have a single depth, it is that of any number of stages.

    Args:
        stage_s: for each choice of devices, [L + 1, L + 1, depths] the cost of every stage.
        taken: for each choice of devices, the blocks of each class that it takes.
        sizes: the number of blocks in each class.
        combine: how the costs of stages are combined.
    """
    add = np.maximum if combine == "max" else np.add
    depths = next(iter(stage_s.values())).shape[-1]
    rest = np.full((layers + 1, *(n + 1 for n in sizes), depths + (depths > 1)), np.inf)
    rest[layers, ..., 0] = 0.0
    # A stage at depth d is followed by a rest of d - 1 stages.
    tails, heads = (rest, rest) if depths == 1 else (rest[..., :-1], rest[..., 1:])
    ones = (1,) * len(sizes)
    for i in reversed(range(layers)):
        for counts, table in stage_s.items():
            # For all counts at once: with `k` blocks of a class in this stage, n - k are left.
            fewer = tuple(slice(0, n + 1 - k) for n, k in zip(sizes, taken[counts], strict=True))
            enough = tuple(slice(k, None) for k in taken[counts])
            stage = table[i, i + 1 :].reshape(-1, *ones, depths)
            candidates = add(stage, tails[i + 1 :][(slice(None), *fewer)])
            target = heads[i][enough]
            np.minimum(target, candidates.min(axis=0), out=target)
    return _walk(stage_s, taken, rest, sizes, add)


def _walk(
    stage_s: Mapping[Counts, Floats],
    taken: Mapping[Counts, Counts],
    rest: Floats,
    sizes: Counts,
    add: np.ufunc,
) -> Pieces | None:
    """Read the stages off `rest`: find again which choices led to its best value."""
    layers, by_depth = len(rest) - 1, rest.shape[-1] > 1
    depth = int(rest[0][sizes].argmin())
    if np.isinf(rest[0][sizes][depth]):
        return None
    pieces: Pieces = []
    i, left = 0, sizes  # the first layer and the blocks that are not yet used
    while i < layers:
        value = rest[i][left][depth]
        depth -= by_depth
        for counts, table in stage_s.items():
            fewer = tuple(n - k for n, k in zip(left, taken[counts], strict=True))
            if min(fewer) < 0:
                continue
            # The value of every end j, computed as in `_search`: one of them is equal.
            candidates = add(table[i, i + 1 :, depth], rest[i + 1 :][(slice(None), *fewer, depth)])
            if (candidates == value).any():
                j = i + 1 + int((candidates == value).argmax())
                pieces.append((i, j, counts))
                i, left = j, fewer
                break
    return pieces


def as_stages(
    costs: Costs,
    ranges: LayerRanges,
    pieces: Pieces,
    schedule: ScheduleChoice,
    *,
    by_depth: bool,
    lanes: int = 1,
) -> tuple[PlannedStage, ...]:
    """Give each stage its ranks, the lowest of a class first, lane by lane, and their best
    shares."""
    free = [iter(group.ranks) for group in costs.classes]
    stages = []
    for s, (i, j, counts) in enumerate(pieces):
        alike = math.gcd(lanes, *counts)  # fewer where each replica serves several lanes
        share = best_shares(ranges, counts, schedule, len(pieces) - s if by_depth else 1)[:, i, j]
        replicas = tuple(
            Replica(rank=next(free[c]), device=costs.classes[c].kind, share=float(share[c]))
            for _ in range(alike)
            for c, many in enumerate(counts)
            for _ in range(many // alike)
        )
        stages.append(PlannedStage(first=i, end=j, replicas=replicas))
    return tuple(stages)
