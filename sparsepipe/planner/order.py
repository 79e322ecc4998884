"""How many mini-batches are in flight, and whether updates are late: what `1f1b-async` leaves open.

The planner takes an asynchronous step for the longest of computation and messages. That needs more
mini-batches in flight than the fewest that a pipeline can have, and what each of them holds takes
memory. `best_order` plays those for which there is memory.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sparsepipe.planner.costs import Costs
from sparsepipe.planner.predict import devices_lacking_memory, predict
from sparsepipe.planner.stages import Order, PlannedStage, ScheduleChoice
from sparsepipe.schedule.costs import (
    StageCost,
    busiest_s,
    enough_in_flight,
    stage_costs,
)
from sparsepipe.schedule.lists import StageRanks, build_schedule
from sparsepipe.schedule.play import PlayedSchedule, play
from systems.clusters.cluster import Link
from systems.profiles.profile import ModelProfile

InFlight = tuple[int, ...]
"""Mini-batches at each stage."""
SAME = 0.005
"""Relative: schedules this close are equally fast."""
PLAYED_STEPS = 24
"""Mini-batches of the steady state that are simulated."""


def best_order(
    costs: Costs,
    stages: tuple[PlannedStage, ...],
    schedule: ScheduleChoice,
    profiles: Mapping[str, ModelProfile],
) -> tuple[ScheduleChoice, float]:
    """The order in which these stages are fastest within their devices' memory.

    Where they do not fit in any, the one that asks for least.

    Returns:
        The schedule with the order; and where there is no memory for one that hides all messages
        the seconds of its step, played, else 0.
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
        return not devices_lacking_memory(predict(costs, stages, replace(schedule, order=order)))

    enough = enough_in_flight(each, ranks, link)
    many = 2 * (max(enough) + len(ranks)) + PLAYED_STEPS
    played = fastest_schedule(ranks, each, link, mini_batches=many, fits=fits)
    order = Order(in_flight=played.schedule.in_flight, late_updates=any(played.schedule.late))
    return replace(schedule, order=order), 0.0 if fits(enough, True) else played.step_s


def fastest_schedule(
    stages: StageRanks,
    costs: Sequence[StageCost],
    link: Link,
    *,
    mini_batches: int,
    fits: Callable[[InFlight, bool], bool] = lambda in_flight, late_updates: True,
) -> PlayedSchedule:
    """The fastest of some asynchronous schedules, played; of equals, the one with the fewest
    mini-batches in flight and without late updates.

    Args:
        fits: whether there is memory for so many mini-batches in flight, and for late updates.
            Where there is for none, the answer is the schedule that asks for least.

    Raises:
        InputError: too few mini-batches for a steady state with as many in flight as would help.
    """
    count = len(stages)
    seconds = [(max(cost.forward_s), max(cost.backward_s)) for cost in costs]
    crossing_s = [link.seconds(cost.output_bytes) + link.latency_s for cost in costs[:-1]]
    least = tuple(range(count, 0, -1))
    enough = enough_in_flight(costs, stages, link)
    more = tuple(held + count - 1 - stage for stage, held in enumerate(enough))
    best: PlayedSchedule | None = None
    replicated = any(len(ranks) > 1 for ranks in stages)  # else no update can be late
    for late_updates in (False, True) if replicated and fits(least, True) else (False,):
        for in_flight in _that_fit(least, enough, more, late_updates, fits):
            schedule = build_schedule(
                "1f1b-async",
                stages,
                mini_batches=mini_batches,
                in_flight=list(in_flight),
                late_updates=late_updates,
                seconds=seconds,
                crossing_s=crossing_s,
            )
            played = play(schedule, costs, link)
            if best is None or played.step_s < best.step_s * (1 - SAME):
                best = played
            if best.step_s <= busiest_s(costs, stages) * (1 + SAME):
                return best  # there is nothing left to hide
    assert best is not None  # `least` was played without late updates
    return best


def _that_fit(
    least: InFlight,
    enough: InFlight,
    more: InFlight,
    late_updates: bool,
    fits: Callable[[InFlight, bool], bool],
) -> list[InFlight]:
    """Those to play: where there is no memory for enough, the most between it and the least."""
    found = [in_flight for in_flight in (enough, more) if fits(in_flight, late_updates)]
    if enough in found:
        return list(dict.fromkeys((least, *found)))
    steps = range(max(a - b for a, b in zip(enough, least, strict=True)) - 1, 0, -1)
    between = (tuple(min(n, few + k) for n, few in zip(enough, least, strict=True)) for k in steps)
    return [least, *[n for n in between if fits(n, late_updates)][:1]]


def profiles_of_ranks(
    costs: Costs, profiles: Mapping[str, ModelProfile]
) -> dict[int, ModelProfile]:
    """The profile of every rank's device."""
    return {rank: profiles[group.kind] for group in costs.classes for rank in group.ranks}


def slowest_link(costs: Costs) -> Link:
    """The simulator gives all ranks one."""
    links = (group.link for group in costs.classes)
    return min(links, key=lambda link: link.bandwidth_bits_per_s or 0)
