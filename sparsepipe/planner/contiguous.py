"""The best contiguous plan: every device is in at most one stage.

`sparsepipe.planner.search` finds it exactly. Memory depends on how many stages come after a stage.
The search first takes every stage as the last one, which needs least memory; if the plan that is
best then fits, it is the best of all. Otherwise it is searched with every number of stages that are
left. What is too large for that is searched in blocks (`sparsepipe.planner.blocks`), many devices
in lanes (`sparsepipe.planner.lanes`).
"""

import math

from sparsepipe.planner.blocks import best_in_blocks
from sparsepipe.planner.costs import Costs
from sparsepipe.planner.lanes import lane_count
from sparsepipe.planner.predict import devices_lacking_memory, predict
from sparsepipe.planner.search import as_stages, best_pieces, class_sizes
from sparsepipe.planner.shares import layer_ranges
from sparsepipe.planner.stages import PlannedStage, ScheduleChoice

LARGEST = 5000
"""The most states per layer that are searched exactly: above it that would take minutes."""


def is_exact(costs: Costs) -> bool:
    """Whether all divisions into stages are searched, so that no better one is missed."""
    states = math.prod(n + 1 for n in class_sizes(costs))
    return states <= LARGEST and lane_count(costs) == 1


def best_contiguous(costs: Costs, schedule: ScheduleChoice) -> tuple[PlannedStage, ...] | None:
    """The stages of the fastest plan with one stage a device; None if none fits into memory.

    Where `is_exact` says no, it is a fast plan, and there may be a faster one.

    Raises:
        InputError: more classes of devices than can be searched even in blocks.
    """
    if not is_exact(costs):
        return best_in_blocks(costs, schedule)
    ranges, sizes = layer_ranges(costs, schedule), class_sizes(costs)
    depths = min(sum(sizes), costs.layers)
    for by_depth in (False, True):  # first as if every stage were the last
        tabulated = range(1, depths + 1) if by_depth else range(1, 2)
        pieces = best_pieces(costs, ranges, sizes, schedule, tabulated)
        if pieces is None:
            return None
        stages = as_stages(costs, ranges, pieces, schedule, by_depth=by_depth)
        if not devices_lacking_memory(predict(costs, stages, schedule)):
            return stages
    return None
