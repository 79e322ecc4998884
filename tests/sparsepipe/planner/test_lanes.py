"""Many devices are planned as equal pipelines side by side, which the simulator plays once."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from sparsepipe.planner import lanes
from sparsepipe.planner.contiguous import best_contiguous, is_exact
from sparsepipe.planner.costs import Costs, costs_of
from sparsepipe.planner.lanes import lane_count, sizes_in_lanes
from sparsepipe.planner.plan import IN_BLOCKS, partition
from sparsepipe.planner.predict import predict
from sparsepipe.planner.stages import PlannedStage, ScheduleChoice
from sparsepipe.schedule.play import play
from sparsepipe.train.planned import ProfiledPlan
from systems.profiles.profile import ModelProfile
from tests.sparsepipe.planner.test_contiguous import chain, one_node

ASYNC = ScheduleChoice(name="1f1b-async")


def profiles(layers: int, seed: int, *, weights: int = 0) -> dict[str, ModelProfile]:
    """Two kinds of devices, each quicker than the other at some layers."""
    rng = random.Random(seed)
    return {
        kind: chain(kind, [rng.uniform(0.2, 1) for _ in range(layers)], weights=weights)
        for kind in "AB"
    }


def costs(a: int, b: int) -> Costs:
    return costs_of(profiles(3, 0), one_node(A=a, B=b))


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_lane_has_32_to_64_devices_and_few_are_left_out(a: int, b: int) -> None:
    of = costs(a, b)
    count, used = lane_count(of), sizes_in_lanes(of)
    if a + b <= 64:
        assert (count, used) == (1, (a, b))
        return
    assert 32 <= (a + b) / count <= 64
    assert all(n - count < m <= n and m % count == 0 for n, m in zip((a, b), used, strict=True))


def of_lanes(
    stages: tuple[PlannedStage, ...], count: int
) -> list[tuple[list[tuple[str, float]], ...]]:
    """For each lane, the devices and shares of its replicas of every stage."""
    found = []
    for lane in range(count):
        parts = []
        for stage in stages:
            many, rest = divmod(len(stage.replicas), count)
            assert rest == 0
            ours = stage.replicas[lane * many : (lane + 1) * many]
            parts.append([(replica.device, replica.share) for replica in ours])
        found.append(tuple(parts))
    return found


@contextmanager
def narrow() -> Iterator[None]:
    """Lanes of 4 to 8 devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "WIDEST", 8)
        yield


@pytest.mark.parametrize(
    ("seed", "virtual_stages"), [*((seed, 1) for seed in range(8)), (0, 2), (1, 2)]
)
def test_lanes_are_alike_and_cover_the_layers(seed: int, virtual_stages: int) -> None:
    rng = random.Random(seed)
    cluster = one_node(A=rng.randint(6, 30), B=rng.randint(6, 30))
    with narrow():
        plan = partition(profiles(5, seed), cluster, virtual_stages=virtual_stages)
        count = lane_count(costs_of(profiles(5, seed), cluster))
    assert count > 1
    if not plan.planner.startswith("data parallel"):
        alike = of_lanes(plan.stages, count)
        assert all(lane == alike[0] for lane in alike)
    assert (plan.stages[0].first, plan.stages[-1].end) == (0, 5)
    assert all(a.end == b.first for a, b in pairwise(plan.stages))
    for stage in plan.stages:
        assert len(set(stage.ranks)) == len(stage.ranks)
        assert sum(stage.shares) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(10))
def test_without_weights_lanes_are_as_fast_as_one_with_its_part_of_the_samples(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but all-reduces joins lanes. Where no device is left out, five lanes take a fifth of
    the seconds of the best plan of one, which all plans together may still beat."""
    rng = random.Random(seed)
    a, b = rng.randint(1, 4), rng.randint(1, 4)
    of = profiles(5, seed)
    one, many = costs_of(of, one_node(A=a, B=b)), costs_of(of, one_node(A=5 * a, B=5 * b))
    alone, exact = best_contiguous(one, ASYNC), best_contiguous(many, ASYNC)
    for module in ("lanes", "blocks", "contiguous"):
        monkeypatch.setattr(f"sparsepipe.planner.{module}.lane_count", lambda _: 5)
    assert not is_exact(many)
    found = best_contiguous(many, ASYNC)
    assert alone is not None
    assert exact is not None
    assert found is not None
    step_s = predict(many, found, ASYNC).step_s
    assert step_s == pytest.approx(predict(one, alone, ASYNC).step_s / 5, rel=1e-6)
    assert step_s >= predict(many, exact, ASYNC).step_s * (1 - 1e-9)


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([0, 10**6]))
def test_one_lane_is_played_and_takes_the_time_of_all_ranks(
    rng: random.Random, weights: int
) -> None:
    cluster = one_node(A=rng.randint(5, 16), B=rng.randint(4, 16))
    seed = rng.randint(0, 99)
    of = profiles(4, seed, weights=weights)
    with narrow():
        plan = partition(of, cluster)
    planned = ProfiledPlan(plan=plan, profiles=of)
    schedule = planned.schedule(4)
    one, every = (
        play(schedule, planned.costs, planned.link, every_rank=each) for each in (False, True)
    )
    assert len(one.classes) <= 8
    assert one.step_s == pytest.approx(every.step_s, rel=1e-12)
    assert one.timeline.end_s == pytest.approx(every.timeline.end_s, rel=1e-12)


@pytest.mark.slow
def test_4096_devices_of_two_kinds_are_planned_and_one_lane_is_played() -> None:
    of = profiles(20, 0)
    plan = partition(of, one_node(A=2001, B=2095))
    planned = ProfiledPlan(plan=plan, profiles=of)
    assert plan.planner == IN_BLOCKS
    assert 0 <= plan.above_bound < 0.1
    assert len(planned.played.classes) <= 64
    assert planned.played.step_s <= plan.prediction.step_s * 1.01
