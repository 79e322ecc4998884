"""The search in blocks: for devices and kinds that are too many for the exact one."""

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from sparsepipe.experiments.brute_force import Case, random_case
from sparsepipe.planner import blocks, contiguous
from sparsepipe.planner.baselines import equal_data_parallel, proportional_data_parallel
from sparsepipe.planner.blocks import best_in_blocks
from sparsepipe.planner.bound import fractional_bound
from sparsepipe.planner.contiguous import best_contiguous, is_exact
from sparsepipe.planner.costs import costs_of
from sparsepipe.planner.plan import IN_BLOCKS, ONE_STAGE, PLAIN, partition
from sparsepipe.planner.predict import devices_lacking_memory, predict
from sparsepipe.planner.stages import ScheduleChoice
from systems.profiles.profile import ModelProfile
from systems.schema import read
from tests.sparsepipe.planner.test_contiguous import chain, one_node


def schedule_of(case: Case) -> ScheduleChoice:
    return read(
        ScheduleChoice, {"name": case.schedule, "micro_batches": case.micro_batches}, "case"
    )


@pytest.mark.parametrize("seed", range(30))
def test_blocks_of_one_device_find_the_best_plan(seed: int) -> None:
    case = random_case(random.Random(seed), most_layers=6, most_devices=4)
    costs, schedule = costs_of(case.profiles, case.cluster), schedule_of(case)
    exact, found = best_contiguous(costs, schedule), best_in_blocks(costs, schedule)
    assert (exact is None) == (found is None)
    if exact is not None and found is not None:
        step_s = predict(costs, exact, schedule).step_s
        assert predict(costs, found, schedule).step_s == pytest.approx(step_s, rel=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_larger_blocks_find_no_better_plan_and_no_wrong_one(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows bring most of it back."""
    monkeypatch.setattr(blocks, "STATES", 30)
    monkeypatch.setattr(blocks, "WINDOW_PART", 3)
    rng = random.Random(seed)
    profiles = {kind: chain(kind, [rng.random() for _ in range(18)]) for kind in "AB"}
    costs = costs_of(profiles, one_node(A=rng.randint(2, 8), B=rng.randint(2, 8)))
    schedule = ScheduleChoice(name="1f1b-async")
    exact, found = best_contiguous(costs, schedule), best_in_blocks(costs, schedule)
    assert exact is not None
    assert found is not None
    best_s, step_s = (predict(costs, stages, schedule).step_s for stages in (exact, found))
    assert best_s * (1 - 1e-9) <= step_s <= 1.5 * best_s
    assert (found[0].first, found[-1].end) == (0, 18)
    assert all(a.end == b.first for a, b in pairwise(found))
    ranks = [rank for stage in found for rank in stage.ranks]
    assert len(set(ranks)) == len(ranks)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=5), st.floats(1, 5000))
def test_there_are_no_more_states_than_asked_for(sizes: list[int], states: float) -> None:
    found = blocks._blocks(tuple(sizes), 1, states)
    assert math.prod(many + 1 for many in found) <= max(states, 2 ** sum(n > 0 for n in sizes))
    assert all(min(1, n) <= many <= n for many, n in zip(found, sizes, strict=True))


def four_kinds(layers: int) -> dict[str, ModelProfile]:
    """Profiles of kinds of which each is slower than the one before, in some layers more so."""
    rng = random.Random(0)
    seconds = [rng.random() for _ in range(layers)]
    return {
        kind: chain(kind, [s * slower * rng.uniform(0.7, 1.3) for s in seconds])
        for kind, slower in zip("ABCD", (1, 1.5, 2, 2.5), strict=True)
    }


def test_plans_say_that_they_were_searched_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    profiles, cluster = four_kinds(6), one_node(A=2, B=2, C=1, D=1)
    exact = partition(profiles, cluster)
    monkeypatch.setattr(contiguous, "LARGEST", 10)
    found = partition(profiles, cluster)
    assert (exact.planner, found.planner) == (ONE_STAGE, IN_BLOCKS)
    assert found.prediction.step_s >= exact.prediction.step_s
    assert found.above_bound >= exact.above_bound >= 0


def test_sixty_four_devices_of_four_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too much for the exact search is planned, faster than data parallelism."""
    monkeypatch.setattr(blocks, "STATES", 81)
    costs = costs_of(four_kinds(6), one_node(A=16, B=16, C=16, D=16))
    schedule = ScheduleChoice(name="1f1b-async")
    assert not is_exact(costs)
    stages = best_contiguous(costs, schedule)
    assert stages is not None
    prediction = predict(costs, stages, schedule)
    assert not devices_lacking_memory(prediction)
    others = [
        predict(costs, answer(costs, schedule), schedule)
        for answer in (equal_data_parallel, proportional_data_parallel)
    ]
    assert fractional_bound(costs) <= prediction.step_s <= min(other.step_s for other in others)


@pytest.mark.slow
def test_sixty_four_devices_of_four_kinds_and_fifty_layers() -> None:
    plan = partition(four_kinds(50), one_node(A=16, B=16, C=16, D=16))
    assert plan.planner in (IN_BLOCKS, *PLAIN)
    assert 0 <= plan.above_bound < 0.25
