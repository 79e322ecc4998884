"""Many devices in lanes: equal pipelines side by side, of which one is planned.

Lanes share nothing but the all-reduces of their stages. With three of them, of two fast devices and
a slow one each:

    lane 0    stage 0: fast 0       stage 1: fast 3, slow 6
    lane 1    stage 0: fast 1       stage 1: fast 4, slow 7
    lane 2    stage 0: fast 2       stage 1: fast 5, slow 8

So the search hands out as many devices at once as there are lanes, however many devices there are.
The replicas of a stage are ordered by lanes: each lane has the same consecutive part of the samples
at every stage, and only its own devices exchange them. So devices at the same place in two lanes
cannot differ, and the simulator plays one lane (`sparsepipe.schedule.pipeline_classes`). Without
lanes a stage of 2,051 replicas before one of 2,045 would share samples with it in 4,095 ways.

A stage with many parameters and little work is quickest on few devices, whose all-reduce is short.
So it may have fewer replicas than there are lanes, each of them for equally many.

A few devices that no lane needs are left out, less than one of each class for every lane; so are
those of a lane that such a stage does not use.
"""

from sparsepipe.planner.costs import Costs
from sparsepipe.planner.search import Counts, class_sizes

WIDEST = 64
"""The most devices in a lane; of several, each has half of it at least."""


def lane_count(costs: Costs) -> int:
    """In how many lanes devices are planned: as many as leave fewest of them out."""
    sizes = class_sizes(costs)
    devices = sum(sizes)
    if devices <= WIDEST:
        return 1
    choices = range(-(-devices // WIDEST), 2 * devices // WIDEST + 1)
    return min(choices, key=lambda lanes: sum(n % lanes for n in sizes))


def sizes_in_lanes(costs: Costs) -> Counts:
    """The number of devices of each class that are in lanes; the others are left out."""
    lanes = lane_count(costs)
    return tuple(n - n % lanes for n in class_sizes(costs))
