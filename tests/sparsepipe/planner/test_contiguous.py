"""The search equals brute force, and is quick enough in states, not only in seconds."""

import math
import random

import pytest
from hypothesis import given, settings, strategies as st

from sparsepipe.experiments.brute_force import Case, brute_force, random_case
from sparsepipe.planner.baselines import BASELINES
from sparsepipe.planner.contiguous import best_contiguous
from sparsepipe.planner.costs import costs_of
from sparsepipe.planner.plan import partition
from sparsepipe.planner.predict import devices_lacking_memory, predict
from sparsepipe.planner.stages import ScheduleChoice
from systems.clusters.cluster import Cluster, Device, Link, Node
from systems.profiles.profile import LayerProfile, ModelProfile
from systems.schema import InputError, read


def check(case: Case) -> None:
    expected = brute_force(case)
    costs = costs_of(case.profiles, case.cluster)
    schedule = read(
        ScheduleChoice, {"name": case.schedule, "micro_batches": case.micro_batches}, "case"
    )
    stages = best_contiguous(costs, schedule)
    assert (stages is None) == math.isinf(expected)
    if stages is None:
        return
    prediction = predict(costs, stages, schedule)
    assert not devices_lacking_memory(prediction)
    assert prediction.step_s == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_equals_brute_force(seed: int) -> None:
    check(random_case(random.Random(seed), most_layers=6, most_devices=4))


@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force_with_eight_layers(seed: int) -> None:
    check(random_case(random.Random(1000 + seed), most_layers=8, most_devices=4))


@given(st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_equals_brute_force_whatever_the_case(rng: random.Random) -> None:
    check(random_case(rng, most_layers=5, most_devices=3))


def test_the_cases_cover_what_they_should() -> None:
    cases = [random_case(random.Random(seed)) for seed in range(60)]
    answers = [brute_force(case) for case in cases[:20]]
    assert {case.schedule for case in cases} == {"1f1b-async", "1f1b"}
    assert any(answer == float("inf") for answer in answers)
    assert any(answer < float("inf") for answer in answers)
    assert any(len(case.cluster.nodes) > 1 for case in cases)
    assert any(len(x.inputs) > 1 for case in cases for x in case.profiles["A"].layers)


def chain(kind: str, seconds: list[float], *, weights: int = 0) -> ModelProfile:
    layers = tuple(
        LayerProfile(
            name=f"l{i}",
            operation="layer",
            forward_s=s / 2,
            backward_s=s / 2,
            activation_bytes=1000,
            parameter_bytes=weights,
            inputs=(f"l{i - 1}",) if i else (),
        )
        for i, s in enumerate(seconds)
    )
    return ModelProfile(name="chain", device=kind, batch_size=8, source="made up", layers=layers)


def one_node(**counts: int) -> Cluster:
    devices = tuple(Device(kind=kind, count=count) for kind, count in counts.items())
    fast = Link(bandwidth_bits_per_s=1e9)
    node = Node(name="n", devices=devices, link=fast, device_link=fast)
    return Cluster(name="made up", source="a test", nodes=(node,))


def test_of_equally_fast_plans_the_one_with_fewest_stages() -> None:
    """Free links: two equal devices share one stage as well as they pipeline two."""
    plan = partition({"A": chain("A", [1.0, 1.0])}, one_node(A=2))
    assert len(plan.stages) == 1
    assert plan.prediction.step_s == pytest.approx(1.0)


def test_each_device_gets_what_it_does_best() -> None:
    profiles = {"A": chain("A", [1.0, 9.0]), "B": chain("B", [9.0, 1.0])}
    plan = partition(profiles, one_node(A=1, B=1))
    assert [stage.replicas[0].device for stage in plan.stages] == ["A", "B"]
    assert plan.prediction.step_s == pytest.approx(1.0)


def test_sixteen_devices_of_three_kinds_and_sixty_layers() -> None:
    rng = random.Random(0)
    profiles = {kind: chain(kind, [rng.random() for _ in range(60)]) for kind in "ABC"}
    cluster = one_node(A=6, B=5, C=5)
    plan = partition(profiles, cluster)
    assert [s.first for s in plan.stages[1:]] == [s.end for s in plan.stages[:-1]]
    assert (plan.stages[0].first, plan.stages[-1].end) == (0, 60)
    ranks = [replica.rank for stage in plan.stages for replica in stage.replicas]
    assert len(set(ranks)) == len(ranks) <= 16
    costs = costs_of(profiles, cluster)
    schedule = ScheduleChoice(name="1f1b-async")
    others = [answer(costs, schedule) for answer in BASELINES.values()]
    steps = [predict(costs, stages, schedule).step_s for stages in others if stages]
    assert len(steps) == 6
    assert all(plan.prediction.step_s <= step_s for step_s in steps)


def test_too_many_classes_are_refused() -> None:
    kinds = [f"K{i}" for i in range(13)]
    with pytest.raises(InputError, match="fewer classes"):
        partition({kind: chain(kind, [1.0]) for kind in kinds}, one_node(**dict.fromkeys(kinds, 1)))
