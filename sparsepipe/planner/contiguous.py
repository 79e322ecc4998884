"""The best contiguous plan: every device in at most one stage. Exact, by dynamic programming.

Devices of a class are interchangeable, so a state is (first layer of the rest, how many devices of
each class the rest may use), and where memory binds also the number of stages of the rest, on which
stashed versions and mini-batches in flight depend. A stage's cost does not depend on its neighbours
(`sparsepipe.planner.predict`), so the best rest is the same whatever comes before it.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparsepipe.planner.costs import Costs, Floats
from sparsepipe.planner.predict import (
    devices_lacking_memory,
    exposed_s,
    latency_s,
    predict,
)
from sparsepipe.planner.shares import LayerRanges, best_shares, layer_ranges
from sparsepipe.planner.stages import PlannedStage, Replica, ScheduleChoice
from systems.schema import InputError

Counts = tuple[int, ...]
Pieces = list[tuple[int, int, Counts]]
"""First layer, end, devices of each class."""
LARGEST = 5000
"""States per layer above which the search would take minutes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Every run as a stage on given devices, [L + 1, L + 1, depths]; infinite where impossible."""

    fill_s: Floats
    """Its part of the sum over stages; 0 if the schedule does not flush."""
    busy_s: Floats
    """Its candidate for the maximum over stages."""


def best_contiguous(costs: Costs, schedule: ScheduleChoice) -> tuple[PlannedStage, ...] | None:
    """The fastest plan; None if none fits into memory.

    First as if every stage were the last, which asks for least memory: what is best then and fits
    is the best of all. Only otherwise with the depth of every stage.

    Raises:
        InputError: more classes of devices than can be searched.
    """
    sizes = tuple(len(group.ranks) for group in costs.classes)
    states = math.prod(n + 1 for n in sizes)
    if states > LARGEST:
        raise InputError(
            f"cluster: {len(sizes)} classes of devices (kind, memory, link) with {sizes} devices "
            f"are {states} choices a layer, more than {LARGEST}; plan for fewer classes"
        )
    runs = layer_ranges(costs, schedule)
    depths = min(sum(sizes), costs.layers)
    for by_depth in (False, True):
        kept = range(1, depths + 1) if by_depth else range(1, 2)
        tables = {
            counts: _table(costs, runs, counts, schedule, kept)
            for counts in itertools.product(*(range(n + 1) for n in sizes))
            if any(counts)
        }
        pieces = _best_pieces(tables, sizes, costs.layers, schedule)
        if pieces is None:
            return None
        stages = as_stages(costs, runs, pieces, schedule, by_depth=by_depth)
        if not devices_lacking_memory(predict(costs, stages, schedule)):
            return stages
    return None


def _table(
    costs: Costs, runs: LayerRanges, counts: Counts, schedule: ScheduleChoice, depths: range
) -> Table:
    tables = [_at_depth(costs, runs, counts, schedule, depth) for depth in depths]
    fill, busy = (np.stack(arrays, axis=-1) for arrays in zip(*tables, strict=True))
    return Table(fill_s=fill, busy_s=busy)


def _at_depth(
    costs: Costs, runs: LayerRanges, counts: Counts, schedule: ScheduleChoice, depth: int
) -> tuple[Floats, Floats]:
    """Fill and busy time of every run on `counts` devices, `depth` stages before the end."""
    present = [c for c, n in enumerate(counts) if n]
    share = best_shares(runs, counts, schedule, depth)[present]
    replicas = sum(counts)
    forward = runs.fixed_forward_s[present] + runs.forward_s[present] * share
    backward = runs.fixed_backward_s[present] + runs.backward_s[present] * share
    transfer = runs.transfer_s[present] * share
    all_reduce = runs.ring_s[present] * (2 * (replicas - 1) / replicas)
    if schedule.flushes:
        m = schedule.micro_batches
        exposed = exposed_s(all_reduce, backward.max(axis=0) / m)
        busy = (m - 1) / m * np.maximum(forward + backward, transfer) + exposed
        fill = ((forward + backward).max(axis=0) + transfer.max(axis=0)) / m
        fill[1:] += 2 * latency_s(costs)
    else:
        busy = np.maximum(forward + backward, transfer + all_reduce)
        fill = np.zeros(busy.shape[1:])
    impossible = np.isnan(share).any(axis=0) | ~np.triu(np.ones(fill.shape, dtype=bool), 1)
    return np.where(impossible, np.inf, fill), np.where(impossible, np.inf, busy.max(axis=0))


def _best_pieces(
    tables: Mapping[Counts, Table], sizes: Counts, layers: int, schedule: ScheduleChoice
) -> Pieces | None:
    """The plan with the least sum of fill + maximum of busy.

    Without fill, of the equally fast plans the one with the fewest stages: it stashes least. With
    fill, walk along the plans that no other beats in both, from
    the least sum, asking for a smaller maximum each time, until none can be better.
    """
    busy = {counts: table.busy_s for counts, table in tables.items()}
    quickest = _search(busy, sizes, layers, "max")
    if quickest is None:
        return None
    least_busy = _objective(tables, quickest)[1]
    if not schedule.flushes:
        once = {n: np.where(x <= least_busy, 1.0, np.inf) for n, x in busy.items()}
        return _search(once, sizes, layers, "sum")
    best, best_s, ceiling = quickest, sum(_objective(tables, quickest)), np.inf
    while True:
        fill = {n: np.where(t.busy_s < ceiling, t.fill_s, np.inf) for n, t in tables.items()}
        found = _search(fill, sizes, layers, "sum")
        if found is None:
            return best
        fill_s, busy_s = _objective(tables, found)
        if fill_s + busy_s < best_s:
            best, best_s = found, fill_s + busy_s
        if fill_s + least_busy >= best_s:
            return best
        ceiling = min(busy_s, best_s - fill_s)  # a better plan fills no sooner than this one


def _objective(tables: Mapping[Counts, Table], pieces: Pieces) -> tuple[float, float]:
    """Sum of fill and maximum of busy."""
    depths = next(iter(tables.values())).busy_s.shape[-1]
    places = [
        (counts, (i, j, min(len(pieces) - s, depths) - 1))
        for s, (i, j, counts) in enumerate(pieces)
    ]
    fill = sum(float(tables[counts].fill_s[place]) for counts, place in places)
    return fill, max(float(tables[counts].busy_s[place]) for counts, place in places)


def _search(
    stage_s: Mapping[Counts, Floats], sizes: Counts, layers: int, combine: Literal["max", "sum"]
) -> Pieces | None:
    """The cheapest sequence of stages.

    rest[i, counts, depth] is the cost of layers i to the end in `depth` stages on at most `counts`
    devices; with a single depth in the tables, in any number of stages.
    """
    add = np.maximum if combine == "max" else np.add
    depths = next(iter(stage_s.values())).shape[-1]
    rest = np.full((layers + 1, *(n + 1 for n in sizes), depths + (depths > 1)), np.inf)
    rest[layers, ..., 0] = 0.0
    tails, heads = (rest, rest) if depths == 1 else (rest[..., :-1], rest[..., 1:])
    ones = (1,) * len(sizes)
    for i in reversed(range(layers)):
        for counts, table in stage_s.items():
            fewer = tuple(slice(0, n + 1 - k) for n, k in zip(sizes, counts, strict=True))
            enough = tuple(slice(k, None) for k in counts)
            stage = table[i, i + 1 :].reshape(-1, *ones, depths)
            candidates = add(stage, tails[i + 1 :][(slice(None), *fewer)])
            target = heads[i][enough]
            np.minimum(target, candidates.min(axis=0), out=target)
    return _walk(stage_s, rest, sizes, add)


def _walk(
    stage_s: Mapping[Counts, Floats], rest: Floats, sizes: Counts, add: np.ufunc
) -> Pieces | None:
    """The stages behind the best value of `rest`, by finding again which choice led to it."""
    layers, by_depth = len(rest) - 1, rest.shape[-1] > 1
    depth = int(rest[0][sizes].argmin())
    if np.isinf(rest[0][sizes][depth]):
        return None
    pieces: Pieces = []
    i, left = 0, sizes
    while i < layers:
        value = rest[i][left][depth]
        depth -= by_depth
        for counts, table in stage_s.items():
            fewer = tuple(n - k for n, k in zip(left, counts, strict=True))
            if min(fewer) < 0:
                continue
            candidates = add(table[i, i + 1 :, depth], rest[i + 1 :][(slice(None), *fewer, depth)])
            if (candidates == value).any():
                j = i + 1 + int((candidates == value).argmax())
                pieces.append((i, j, counts))
                i, left = j, fewer
                break
    return pieces


def as_stages(
    costs: Costs, runs: LayerRanges, pieces: Pieces, schedule: ScheduleChoice, *, by_depth: bool
) -> tuple[PlannedStage, ...]:
    """The pieces with ranks, lowest first, and shares."""
    free = [list(group.ranks) for group in costs.classes]
    stages = []
    for s, (i, j, counts) in enumerate(pieces):
        share = best_shares(runs, counts, schedule, len(pieces) - s if by_depth else 1)[:, i, j]
        replicas = tuple(
            Replica(rank=free[c].pop(0), device=costs.classes[c].kind, share=float(share[c]))
            for c, many in enumerate(counts)
            for _ in range(many)
        )
        stages.append(PlannedStage(first=i, end=j, replicas=replicas))
    return tuple(stages)
