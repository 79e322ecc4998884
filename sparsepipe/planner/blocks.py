"""A fast plan with one stage a device, for more devices and kinds than can be searched exactly.

Devices of a class are handed out in blocks, as small as `WORK` allows. Then windows of a few
neighbouring stages, those around the busiest first, are planned again with the devices that they
have and those that no stage has, in smaller blocks or one by one, as long as that helps:

    64 devices of 4 kinds     blocks of 3 or 4     [ 3 + 0 + 6 + 0 ] [ 0 + 6 + 3 + 0 ] [ ... ]
    the first two again       one by one           [ 4 + 0 + 5 + 0 ] [ 0 + 6 + 4 + 0 ] [ ... ]

Where devices are in lanes (`sparsepipe.planner.lanes`), every lane gets the same: then a block has
as many devices as there are lanes, or a multiple.

Each search is exact for its blocks. All together may miss the best plan, so a plan's distance from
the fractional bound (`sparsepipe.planner.bound`) tells how good it is.
"""

import math
from collections.abc import Iterator, Sequence

from sparsepipe.planner.costs import Costs
from sparsepipe.planner.lanes import lane_count, sizes_in_lanes
from sparsepipe.planner.predict import devices_lacking_memory, predict
from sparsepipe.planner.search import Counts, Pieces, as_stages, best_pieces
from sparsepipe.planner.shares import LayerRanges, layer_ranges
from sparsepipe.planner.stages import PlannedStage, ScheduleChoice
from systems.schema import InputError

MOST_CLASSES = 12
"""The most classes of devices: with one block a class, a search has 2 to this power states."""
WORK = 2.5e6
"""States per layer, times layers squared, times depths: how much is searched at once in blocks."""
STATES = 1000
"""The most states per layer that are searched at once, for however few layers."""
WINDOW_PART = 10
"""The search of a window gets one part of so many of both."""
WINDOWS = (1, 2, 3)
"""How many neighbouring stages are planned again together."""
DEPTHS = 12
"""The most stages in a plan where memory is short."""
LEAST_GAIN = 1e-6
"""What makes a step shorter by less than this part of it does not help."""


def best_in_blocks(costs: Costs, schedule: ScheduleChoice) -> tuple[PlannedStage, ...] | None:
    """The stages of a fast plan with one stage a device; None if none is found that fits into
    memory.

    Raises:
        InputError: more classes of devices than can be searched even in blocks.
    """
    ranges, sizes, lanes = layer_ranges(costs, schedule), sizes_in_lanes(costs), lane_count(costs)
    if len(sizes) > MOST_CLASSES:
        raise InputError(
            f"cluster: {len(sizes)} classes of devices (kind, memory, link), more than "
            f"{MOST_CLASSES}; plan for fewer classes"
        )
    for depths in (1, DEPTHS):  # first as if every stage were the last
        pieces = best_pieces(
            costs,
            ranges,
            sizes,
            schedule,
            range(1, depths + 1),
            _blocks(sizes, lanes, _states(costs.layers, depths)),
            lanes,
        )
        if pieces is None:
            return None
        found = _refined(costs, ranges, pieces, schedule, by_depth=depths > 1)
        if found is not None:
            return found
    return None


def _states(layers: int, depths: int) -> float:
    """The most states per layer for a search of so many layers at so many depths."""
    return min(STATES, WORK / (layers**2 * depths))


def _blocks(sizes: Counts, lanes: int, states: float) -> Counts:
    """Into how many blocks the devices of each class are divided, for that many states at most. It
    is one block a class at least."""
    blocks = [n // lanes for n in sizes]
    while math.prod(many + 1 for many in blocks) > states and max(blocks) > 1:
        blocks[blocks.index(max(blocks))] -= 1
    return tuple(blocks)


def _refined(
    costs: Costs, ranges: LayerRanges, pieces: Pieces, schedule: ScheduleChoice, *, by_depth: bool
) -> tuple[PlannedStage, ...] | None:
    """Plan windows of neighbouring stages again while that makes a step shorter; None if the stages
    do not fit into memory."""
    best, step_s = None, math.inf
    lanes = lane_count(costs)
    candidates: Iterator[Pieces] = iter([pieces])
    while (changed := next(candidates, None)) is not None:
        stages = as_stages(costs, ranges, changed, schedule, by_depth=by_depth, lanes=lanes)
        prediction = predict(costs, stages, schedule)
        if devices_lacking_memory(prediction) or prediction.step_s >= step_s * (1 - LEAST_GAIN):
            continue
        best, step_s = stages, prediction.step_s
        busy_s = [
            max(t.forward_s + t.backward_s, t.transfer_s + t.all_reduce_s)
            for t in prediction.stages
        ]
        candidates = _replanned(costs, ranges, changed, schedule, busy_s, by_depth=by_depth)
    return best


def _replanned(
    costs: Costs,
    ranges: LayerRanges,
    pieces: Pieces,
    schedule: ScheduleChoice,
    busy_s: Sequence[float],
    *,
    by_depth: bool,
) -> Iterator[Pieces]:
    """The stages with one window of them planned again, windows around the busiest stage first."""
    sizes, lanes = sizes_in_lanes(costs), lane_count(costs)
    taken = [tuple(-(-n // lanes) * lanes for n in counts) for _, _, counts in pieces]
    free = tuple(n - sum(used) for n, *used in zip(sizes, *taken, strict=True))
    for busiest in sorted(range(len(pieces)), key=lambda s: -busy_s[s]):
        for width in WINDOWS:
            for start in range(max(0, busiest - width + 1), min(busiest, len(pieces) - width) + 1):
                window, after = pieces[start : start + width], len(pieces) - start - width
                first, end = window[0][0], window[-1][1]
                devices = tuple(map(sum, zip(free, *taken[start : start + width], strict=True)))
                depths = range(after + 1, after + 1 + 2 * width) if by_depth else range(1, 2)
                states = _states(end - first, len(depths)) / WINDOW_PART
                found = best_pieces(
                    costs,
                    ranges.between(first, end),
                    devices,
                    schedule,
                    depths,
                    _blocks(devices, lanes, states),
                    lanes,
                )
                if found is not None:
                    shifted = [(first + i, first + j, counts) for i, j, counts in found]
                    yield [*pieces[:start], *shifted, *pieces[start + width :]]
        if not schedule.flushes:
            return  # the busiest stage alone decides
