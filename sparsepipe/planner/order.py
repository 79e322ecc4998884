"""How many mini-batches are in flight, and whether updates are late: what `1f1b-async` leaves open.

The planner takes an asynchronous step for the longest of computation and messages. That needs more
mini-batches in flight than the fewest that a pipeline can have, and what each of them holds takes
memory. `best_order` plays those for which there is memory (`sparsepipe.simulated.fastest`).
"""

from collections.abc import Mapping

from sparsepipe.planner.costs import Costs
from sparsepipe.planner.predict import lacking, predict
from sparsepipe.planner.stages import Order, Schedule, Stage
from sparsepipe.simulated import fastest
from sparsepipe.stage_cost import enough_in_flight, stage_costs
from systems.cluster import Link
from systems.profile import ModelProfile

PLAYED_STEPS = 24
"""Mini-batches of the steady state that are simulated."""


def best_order(
    costs: Costs,
    stages: tuple[Stage, ...],
    schedule: Schedule,
    profiles: Mapping[str, ModelProfile],
) -> tuple[Order, float]:
    """The order in which these stages are fastest within their devices' memory.

    Where they do not fit in any, the one that asks for least.

    Returns:
        The order; and where there is no memory for one that hides all messages the seconds of its
        step, played, else 0.
    """
    ranks = tuple(tuple(r.rank for r in stage.replicas) for stage in stages)
    each = stage_costs(
        profiles_of_ranks(costs, profiles),
        [(stage.first, stage.end) for stage in stages],
        ranks,
        [[r.share for r in stage.replicas] for stage in stages],
        costs.cut_bytes.tolist(),
    )
    link = slowest_link(costs)

    def fits(in_flight: tuple[int, ...], late_updates: bool) -> bool:
        order = Order(in_flight=in_flight, late_updates=late_updates)
        return not lacking(predict(costs, stages, schedule, order))

    enough = enough_in_flight(each, ranks, link)
    many = 2 * (max(enough) + len(ranks)) + PLAYED_STEPS
    played = fastest(ranks, each, link, mini_batches=many, fits=fits)
    order = Order(in_flight=played.schedule.in_flight, late_updates=any(played.schedule.late))
    return order, 0.0 if fits(enough, True) else played.step_s


def profiles_of_ranks(
    costs: Costs, profiles: Mapping[str, ModelProfile]
) -> dict[int, ModelProfile]:
    """The profile of every rank's device."""
    return {rank: profiles[group.kind] for group in costs.classes for rank in group.ranks}


def slowest_link(costs: Costs) -> Link:
    """The simulator gives all ranks one."""
    links = (group.link for group in costs.classes)
    return min(links, key=lambda link: link.bandwidth_bits_per_s or 0)
