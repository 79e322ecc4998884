"""Chooses how many mini-batches `1f1b-async` has in flight, and whether updates are late.

The planner predicts that an asynchronous step takes as long as the busiest device or link. That is
reached only if messages hide behind computation, for which a stage needs more mini-batches in
flight than the smallest possible number. Each of them takes memory for its activations and its
weight version. So `best_order` simulates several numbers for which there is memory, and takes the
fastest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sparsepipe.planner.costs import Costs
from sparsepipe.planner.predict import devices_lacking_memory, predict
from sparsepipe.planner.stages import Order, PlannedStage, ScheduleChoice
from sparsepipe.schedule.costs import (
    StageCost,
    busiest_s,
    crossings_s,
    enough_in_flight,
    stage_costs,
)
from sparsepipe.schedule.lists import StageRanks, build_schedule
from sparsepipe.schedule.play import PlayedSchedule, play
from systems.clusters.cluster import Link
from systems.profiles.profile import ModelProfile

InFlight = tuple[int, ...]
"""The mini-batches in flight at each stage."""
SAME = 0.005
"""Schedules whose steps differ by less than this part are equally fast."""
PLAYED_STEPS = 24
"""The number of mini-batches of the steady state that are simulated."""


def best_order(
    costs: Costs,
    stages: tuple[PlannedStage, ...],
    schedule: ScheduleChoice,
    profiles: Mapping[str, ModelProfile],
) -> tuple[ScheduleChoice, float]:
    """The order with which these stages are fastest within the memory of their devices.

    If none fits, it is the one that needs least memory.

    Returns:
        The schedule with that order, and a number of seconds: 0 if there is memory enough to hide
        all messages, otherwise the simulated step, which is then longer than the predicted one.
    """
    ranks = tuple(stage.ranks for stage in stages)
    each = stage_costs(
        profiles_of_ranks(costs, profiles),
        [(stage.first, stage.end) for stage in stages],
        ranks,
        [stage.shares for stage in stages],
        costs.cut_bytes.tolist(),
    )
    link = slowest_link(costs)

    def fits(in_flight: tuple[int, ...], late_updates: bool) -> bool:
        """Whether the stages fit into memory with this order."""
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
    """Simulate asynchronous schedules with more and more mini-batches in flight; return the
    fastest.

    Where a stage has replicas, each is tried with late updates too (`sparsepipe.schedule.lists`).
    Among equally fast ones the answer has the fewest mini-batches in flight, and no late updates.

    Args:
        stages: the ranks that hold each stage.
        costs: what a micro-batch costs at each stage.
        link: the link of every rank.
        mini_batches: how many to simulate.
        fits: tells whether there is memory for (mini-batches in flight, late updates). If it is
            never true, the answer is the schedule that needs least memory.

    Raises:
        InputError: `mini_batches` is too small: the pipeline would be filling or emptying all the
            time, and no step would be a steady one.
    """
    count = len(stages)
    seconds = [(max(cost.forward_s), max(cost.backward_s)) for cost in costs]
    least = tuple(range(count, 0, -1))
    enough = enough_in_flight(costs, stages, link)
    more = tuple(n + count - 1 - stage for stage, n in enumerate(enough))
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
                crossing_s=crossings_s(costs, link),
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
    """The numbers in flight to simulate: the least, enough, and more, where they fit.

    Where there is no memory for enough, it is the least and the largest that fits in between.
    """
    fitting = [in_flight for in_flight in (enough, more) if fits(in_flight, late_updates)]
    if enough in fitting:
        return list(dict.fromkeys((least, *fitting)))
    extra = range(max(a - b for a, b in zip(enough, least, strict=True)) - 1, 0, -1)
    between = (tuple(min(n, few + k) for n, few in zip(enough, least, strict=True)) for k in extra)
    return [least, *[n for n in between if fits(n, late_updates)][:1]]


def profiles_of_ranks(
    costs: Costs, profiles: Mapping[str, ModelProfile]
) -> dict[int, ModelProfile]:
    """The profile of every rank's device."""
    return {rank: profiles[group.kind] for group in costs.classes for rank in group.ranks}


def slowest_link(costs: Costs) -> Link:
    """The slowest link of all devices: the simulator gives all ranks the same."""
    links = (group.link for group in costs.classes)
    return min(links, key=lambda link: link.bandwidth_bits_per_s or 0)
