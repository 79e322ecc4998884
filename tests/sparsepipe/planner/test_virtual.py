"""Virtual stages: valid plans, never above the contiguous one, near the bound."""

import random

import pytest

from sparsepipe.experiments.brute_force import random_case
from sparsepipe.planner.costs import costs_of
from sparsepipe.planner.plan import fits_memory, partition
from sparsepipe.planner.stages import ScheduleChoice
from sparsepipe.planner.virtual import best_virtual
from systems.schema import InputError
from tests.sparsepipe.planner.test_contiguous import chain, one_node


@pytest.mark.parametrize("seed", range(12))
def test_plans_are_valid_and_no_slower_than_without(seed: int) -> None:
    case = random_case(random.Random(500 + seed), most_layers=6)
    micro = None if case.schedule == "1f1b-async" else case.micro_batches
    try:
        plain = partition(case.profiles, case.cluster, schedule=case.schedule, micro_batches=micro)
    except InputError:
        return
    plan = partition(
        case.profiles, case.cluster, schedule=case.schedule, micro_batches=micro, virtual_stages=3
    )
    assert fits_memory(plan)
    assert -1e-9 < plan.above_bound <= plain.above_bound + 1e-9
    layers = len(case.profiles["A"].layers)
    assert [s.end for s in plan.stages] == [*(s.first for s in plan.stages[1:]), layers]
    for stage in plan.stages:
        assert sum(replica.share for replica in stage.replicas) == pytest.approx(1)


def test_every_device_takes_what_it_is_best_at_although_that_is_in_several_places() -> None:
    """Four layers, each quick on one kind only, in turns: no contiguous plan can have them all."""
    quick = [1.0, 5.0, 1.0, 5.0]
    profiles = {"A": chain("A", quick), "B": chain("B", quick[::-1])}
    cluster = one_node(A=1, B=1)
    assert partition(profiles, cluster).prediction.step_s > 3
    plan = partition(profiles, cluster, virtual_stages=4)
    assert plan.prediction.step_s == pytest.approx(2.0)
    assert plan.above_bound == pytest.approx(0.0, abs=1e-6)
    assert [stage.replicas[0].device for stage in plan.stages] == ["A", "B", "A", "B"]


def test_never_more_stages_than_allowed() -> None:
    rng = random.Random(1)
    profiles = {kind: chain(kind, [rng.random() for _ in range(12)]) for kind in "AB"}
    costs = costs_of(profiles, one_node(A=1, B=1))
    for most in range(2, 6):
        stages = best_virtual(costs, ScheduleChoice(name="1f1b-async"), None, most)
        assert stages is not None
        assert len(stages) <= most
