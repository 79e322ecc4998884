"""Plans from the measured profiles: the limits they must reach, files, refusals."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from sparsepipe.planner.baselines import BASELINES
from sparsepipe.planner.bound import fractional_bound
from sparsepipe.planner.contiguous import best_contiguous
from sparsepipe.planner.costs import costs_of
from sparsepipe.planner.plan import (
    Plan,
    baseline_plan,
    baseline_plans,
    fits_memory,
    load_plan,
    load_profile,
    partition,
    profile_digest,
    save_plan,
    shipped_profiles,
)
from sparsepipe.planner.predict import predict
from sparsepipe.planner.stages import ScheduleChoice
from sparsepipe.train.planned import ProfiledPlan
from systems.clusters import cluster as clusters
from systems.clusters.cluster import Cluster
from systems.profiles.graph_file import read_graph
from systems.profiles.profile import ModelProfile
from systems.schema import InputError

PROFILES = {"TitanV": load_profile("tv"), "TitanXp": load_profile("txp")}
TEN_GIGABYTES = 80e9


def titans(volta: int, xp: int, rate: float = TEN_GIGABYTES) -> Cluster:
    counts = {"TitanV": volta, "TitanXp": xp}
    return clusters.load("titan-8").with_devices(counts).with_rate(rate)


def stepped(plan: Plan | None) -> int:
    """Milliseconds per step."""
    assert plan is not None
    return round(plan.prediction.step_s * 1e3)


# the table of known answers


@pytest.mark.parametrize(
    ("mix", "equal", "by_speed", "bound"),
    [
        ((1, 1), 1464, 1208, 1024),
        ((1, 3), 732, 662, 591),
        ((2, 2), 732, 604, 512),
        ((2, 6), 366, 331, 295),
        ((4, 4), 366, 302, 256),
    ],
)
def test_data_parallel_and_the_bound(
    mix: tuple[int, int], equal: int, by_speed: int, bound: int
) -> None:
    cluster = titans(*mix)
    plan = baseline_plan("data parallel, equal shares", PROFILES, cluster)
    assert plan is not None
    assert stepped(plan) == equal
    assert stepped(baseline_plan("data parallel, shares by speed", PROFILES, cluster)) == by_speed
    assert round(plan.bound_s * 1e3) == bound


@pytest.mark.parametrize(("mix", "two_stages"), [((1, 1), 1175), ((2, 2), 588), ((4, 4), 294)])
def test_two_stages_one_of_each_kind(mix: tuple[int, int], two_stages: int) -> None:
    """The best cut between all TitanXp and all TitanV, in either order, by trying every cut."""
    best = min(
        max(sum(first[:cut]) / m, sum(second[cut:]) / n)
        for first, m, second, n in (
            (_layer_s("TitanV"), mix[0], _layer_s("TitanXp"), mix[1]),
            (_layer_s("TitanXp"), mix[1], _layer_s("TitanV"), mix[0]),
        )
        for cut in range(53)
    )
    assert round(best * 1e3) == two_stages
    plan = partition(PROFILES, titans(*mix))
    assert plan.prediction.step_s <= best * 1.0001


def _layer_s(kind: str) -> list[float]:
    return [layer.forward_s + layer.backward_s for layer in PROFILES[kind].layers]


@pytest.mark.parametrize(
    ("mix", "step_ms"), [((1, 1), 1175), ((1, 3), 610), ((2, 2), 579), ((2, 6), 305), ((4, 4), 287)]
)
def test_the_plan_of_every_mix(mix: tuple[int, int], step_ms: int) -> None:
    assert stepped(partition(PROFILES, titans(*mix))) == step_ms


@pytest.mark.parametrize("mix", [(1, 1), (2, 2)])
def test_virtual_stages_come_within_a_tenth_of_the_bound(mix: tuple[int, int]) -> None:
    plan = partition(PROFILES, titans(*mix), virtual_stages=2)
    assert plan.planner == "virtual stages"
    assert len(plan.stages) == 2
    assert 0 < plan.above_bound < 0.1


def test_the_published_planner_answers_data_parallel_for_two_devices() -> None:
    """1468 ms, says its own model: its all-reduce is added, not overlapped."""
    plan = baseline_plan("authors' planner", PROFILES, titans(1, 1))
    assert plan is not None
    assert len(plan.stages) == 1
    assert stepped(plan) == 1464


# plans against baselines


@pytest.mark.parametrize("rate", [1e9, 10e9, 80e9])
@pytest.mark.parametrize("schedule", ["1f1b-async", "1f1b", "gpipe"])
def test_no_baseline_that_fits_is_faster(schedule: str, rate: float) -> None:
    cluster = titans(2, 2, rate)
    plan = partition(PROFILES, cluster, schedule=schedule)
    others = baseline_plans(PROFILES, cluster, schedule=schedule)
    assert len(others) == len(BASELINES)
    if schedule == "gpipe":  # is not searched exactly
        others = tuple(o for o in others if "data parallel" in o.planner or "one d" in o.planner)
    assert all(plan.prediction.step_s <= o.prediction.step_s * (1 + 1e-9) for o in others)
    assert all(other.above_bound > -1e-9 for other in (plan, *others))


def test_more_devices_or_faster_links_are_never_slower() -> None:
    steps = [stepped(partition(PROFILES, titans(1, n))) for n in range(1, 5)]
    assert steps == sorted(steps, reverse=True)
    steps = [stepped(partition(PROFILES, titans(2, 2, rate))) for rate in (1e8, 1e9, 1e10)]
    assert steps == sorted(steps, reverse=True)


def test_a_flushing_schedule_takes_the_best_number_of_micro_batches() -> None:
    cluster = titans(2, 2, 1e9)
    free = partition(PROFILES, cluster, schedule="1f1b")
    given = [
        partition(PROFILES, cluster, schedule="1f1b", micro_batches=m).prediction.step_s
        for m in (1, 2, 4, 8, 16)
    ]
    assert free.prediction.step_s == min(given)


@pytest.mark.parametrize("virtual_stages", [1, 3])
def test_a_plan_covers_the_layers_and_gives_away_whole_mini_batches(virtual_stages: int) -> None:
    plan = partition(PROFILES, titans(2, 2), virtual_stages=virtual_stages)
    edges = [stage.first for stage in plan.stages] + [plan.stages[-1].end]
    assert edges[0] == 0
    assert edges[-1] == 52
    assert edges == sorted(set(edges))
    for stage in plan.stages:
        assert sum(replica.share for replica in stage.replicas) == pytest.approx(1)
        assert all(0 < replica.share <= 1 for replica in stage.replicas)
        assert all(r.device == ("TitanV" if r.rank < 2 else "TitanXp") for r in stage.replicas)


# memory


def limited(memory_bytes: int, cluster: Cluster | None = None) -> Cluster:
    cluster = cluster or titans(1, 1)
    devices = tuple(
        dataclasses.replace(device, memory_bytes=memory_bytes)
        for device in cluster.nodes[0].devices
    )
    return dataclasses.replace(
        cluster, nodes=(dataclasses.replace(cluster.nodes[0], devices=devices),)
    )


def test_less_memory_gives_another_plan_that_fits() -> None:
    free = partition(PROFILES, titans(1, 1))
    need = max(device.memory_bytes for device in free.prediction.devices)
    tight = partition(PROFILES, limited(need - 1_000_000))
    assert fits_memory(tight)
    assert tight.prediction.step_s > free.prediction.step_s
    virtual = partition(PROFILES, limited(need - 1_000_000), virtual_stages=4)
    assert fits_memory(virtual)
    assert virtual.prediction.step_s <= tight.prediction.step_s


def test_memory_that_does_not_hide_all_messages_makes_a_slower_step() -> None:
    """At 1 Gb/s the free plan has 3 and more mini-batches in flight; memory leaves room for 2."""
    free = partition(PROFILES, titans(1, 1, 1e9))
    costs = costs_of(PROFILES, titans(1, 1, 1e9))
    assert free.schedule.order is not None
    assert free.schedule.order.in_flight[0] > len(free.stages) == 2
    fewest = ScheduleChoice(name="1f1b-async")
    need = max(d.memory_bytes for d in predict(costs, free.stages, fewest).devices)
    assert max(device.memory_bytes for device in free.prediction.devices) > need
    cluster = limited(need, titans(1, 1, 1e9))
    tight = partition(PROFILES, cluster)
    assert fits_memory(tight)
    assert tight.prediction.step_s > 1.01 * free.prediction.step_s
    played = ProfiledPlan(plan=tight, profiles=PROFILES).played
    assert tight.prediction.step_s == pytest.approx(played.step_s, rel=0.02)


def test_too_little_memory_says_which_device_lacks_how_much() -> None:
    with pytest.raises(InputError, match=r"rank 1 \(TitanXp\) lacks [\d,]+ bytes"):
        partition(PROFILES, limited(1_000_000_000))


# files


def test_a_plan_is_a_file_with_all_that_it_rests_on(tmp_path: Path) -> None:
    plan = partition(PROFILES, titans(1, 1), schedule="1f1b", micro_batches=4)
    path = tmp_path / "plan.json"
    save_plan(plan, path)
    again = load_plan(path)
    assert again == plan
    assert again.profiles == {kind: profile_digest(profile) for kind, profile in PROFILES.items()}
    assert again.cluster.nodes[0].device_link is not None
    assert again.cluster.nodes[0].device_link.bandwidth_bits_per_s == TEN_GIGABYTES
    assert [d.memory_limit_bytes for d in again.prediction.devices] == [12_884_901_888] * 2


def test_a_changed_profile_has_another_digest() -> None:
    profile = PROFILES["TitanV"]
    assert profile_digest(profile) == profile_digest(load_profile("titanv"))
    assert profile_digest(profile) != profile_digest(profile.slowed(1.01, "a test"))


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_plan(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load_plan(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "1f1b-asynch"}, "perhaps '1f1b-async'"),
        ({"micro_batches": 4}, "--micro-batches 4"),
        ({"schedule": "1f1b", "micro_batches": 129}, "only 128 samples"),
        ({"virtual_stages": 0}, "--virtual-stages 0"),
    ],
)
def test_bad_options(options: dict[str, str | int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        partition(PROFILES, titans(1, 1), **options)  # type: ignore[arg-type]


# profiles


@pytest.mark.skipif("TESTBED_DATA" not in os.environ, reason="TESTBED_DATA is not set")
def test_shipped_profiles_are_the_authors_files() -> None:
    folder = Path(os.environ["TESTBED_DATA"]) / "profiles"
    for short, kind in (("tv", "TitanV"), ("txp", "TitanXp"), ("RTX", "RTX")):
        text = (folder / f"minkvgg_v0.02_b128_{short}.graph.txt").read_text()
        theirs = read_graph(text, name="minkvgg16-bn", device_kind=kind, batch_size=128, source="")
        shipped = load_profile(short.lower())
        assert len(shipped.layers) == 52
        assert _without_parameters(shipped) == _without_parameters(theirs)
        # Only RTX's file has the parameters of the convolutions.
        assert shipped.parameter_bytes == load_profile("rtx").parameter_bytes == 252_731_296


def _without_parameters(profile: ModelProfile) -> list[tuple[object, ...]]:
    return [
        (x.name, x.operation, x.forward_s, x.backward_s, x.activation_bytes, x.inputs)
        for x in profile.layers
    ]


def test_an_unknown_profile_is_refused_by_name() -> None:
    assert {"tv", "txp", "rtx"} <= set(shipped_profiles())
    with pytest.raises(InputError, match=r"--profiles titnav.*'titanv'"):
        load_profile("titnav")


# the bound


def test_the_bound_of_equal_devices_is_their_even_part() -> None:
    alone = {"TitanV": PROFILES["TitanV"]}
    costs = costs_of(alone, titans(3, 0))
    assert fractional_bound(costs) == pytest.approx(2.0565 / 3, rel=1e-4)


def test_the_bound_of_two_kinds_sorts_layers_by_advantage() -> None:
    """Two devices: one takes the layers it is relatively best at, one layer is divided."""
    v, x = np.array(_layer_s("TitanV")), np.array(_layer_s("TitanXp"))
    order = np.argsort(v / np.maximum(x, 1e-12))
    v, x = v[order], x[order]
    steps = []
    for k in range(len(v)):
        before, behind = v[:k].sum(), x[k + 1 :].sum()
        part = np.clip((behind + x[k] - before) / (v[k] + x[k]), 0, 1) if v[k] + x[k] else 0.0
        steps.append(max(before + part * v[k], behind + (1 - part) * x[k]))
    bound_s = fractional_bound(costs_of(PROFILES, titans(1, 1)))
    assert bound_s == pytest.approx(min(steps), rel=1e-6)


def test_contiguous_never_gives_a_device_two_stages() -> None:
    costs = costs_of(PROFILES, titans(4, 4, 1e9))
    stages = best_contiguous(costs, ScheduleChoice(name="1f1b-async"))
    assert stages is not None
    ranks = [replica.rank for stage in stages for replica in stage.replicas]
    assert len(ranks) == len(set(ranks))
