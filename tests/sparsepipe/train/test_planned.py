"""Options become a plan, its schedule, and a simulation of that."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsepipe.options import Options
from sparsepipe.planner import plan as planner
from sparsepipe.planner.stages import Order
from sparsepipe.planner.target import check_links
from sparsepipe.train.plan_file import check_planned_for, load_checked_plan
from sparsepipe.train.planned import ProfiledPlan, plan_pipeline
from systems.clusters.cluster import load
from systems.schema import InputError

PAIR = Options(
    scheme="pipeline", batch_size=128, devices="TitanV=1,TitanXp=1", bandwidth_bits_per_s=10e9
)


def planned(options: Options) -> ProfiledPlan:
    return plan_pipeline(options, load("titan-8"))


def test_the_played_schedule_takes_the_predicted_step() -> None:
    pair = planned(PAIR)
    assert pair.stages == ((1,), (0,)) or pair.stages == ((0,), (1,))
    assert pair.played.step_s == pytest.approx(pair.plan.prediction.step_s, rel=0.02)
    order = pair.order
    assert order is not None
    assert max(order.in_flight) > len(pair.stages)  # messages at 10 Gb/s are hidden so
    assert pair.schedule(5).mini_batches == 5 + 2 * pair.warm_up
    assert {link.bandwidth_bits_per_s for link in pair.links} == {10e9}


def test_ddp_waits_for_all_gradients() -> None:
    ddp = replace(PAIR, planner="data parallel, equal shares", schedule="1f1b", micro_batches=1)
    pair = planned(ddp)
    assert pair.stages == ((0, 1),)
    assert pair.order is None
    assert pair.warm_up == 1
    slowest_s = max(device.compute_s for device in pair.plan.prediction.devices)
    assert pair.played.step_s > 1.005 * slowest_s


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    planner.save_plan(planned(PAIR).plan, path)
    return path


def test_a_plan_file_needs_its_own_profiles(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    planner.save_plan(planned(PAIR).plan, path)
    given = replace(PAIR, plan=str(path))
    assert planned(given).plan == planner.load_plan(path)
    assert planned(given).schedule(3) == planned(PAIR).schedule(3)
    with pytest.raises(InputError, match=r"--sparsepipe.profiles tv,rtx: .* of TitanXp"):
        planned(replace(given, profiles="tv,rtx"))
    with pytest.raises(InputError, match="no such file"):
        planned(replace(given, plan="missing.json"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schedule": "1f1b"}, "--sparsepipe.schedule 1f1b: .* has 1f1b-async; give"),
        ({"batch_size": 32}, "--sparsepipe.batch-size 32: .* has 128; give .*size 128"),
        ({"micro_batches": 4}, "--sparsepipe.micro-batches 4: .* has 1;"),
        ({"cuts": (3,)}, "--sparsepipe.cuts 3: the plan .* has "),
        ({"devices": "TitanV=1,TitanXp=2"}, "--sparsepipe.devices TitanV=1,TitanXp=2: .*Xp=1;"),
        ({"bandwidth_bits_per_s": 1e9}, r"--sparsepipe.bandwidth-bits-per-s 1e\+09: .*1e\+10"),
        ({"planner": "one device"}, "--sparsepipe.planner one device: .* leave"),
    ],
)
def test_options_that_a_plan_file_contradicts_are_named(
    change: dict[str, Any], said: str, pair_file: Path
) -> None:
    with pytest.raises(InputError, match=said):
        load_checked_plan(replace(PAIR, plan=str(pair_file), **change))


def test_the_bandwidth_that_a_plan_file_asks_for_is_taken(tmp_path: Path) -> None:
    path, rate = tmp_path / "plan.json", 1234567891.0
    planner.save_plan(planned(replace(PAIR, bandwidth_bits_per_s=rate)).plan, path)
    with pytest.raises(InputError, match=r"give --sparsepipe\.bandwidth") as error:
        load_checked_plan(replace(PAIR, plan=str(path), bandwidth_bits_per_s=1e9))
    remedy = re.search(r"give --sparsepipe.bandwidth-bits-per-s (\S+),", str(error.value))
    assert remedy is not None
    load_checked_plan(replace(PAIR, plan=str(path), bandwidth_bits_per_s=float(remedy[1])))


def test_another_model_than_the_plans_is_named(pair_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    planner.save_plan(replace(planner.load_plan(pair_file), model="minkunet14"), path)
    with pytest.raises(InputError, match=r"--sparsepipe.model minkvgg16-bn: .* has minkunet14"):
        load_checked_plan(replace(PAIR, plan=str(path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"first": 1},
            "stage 0 has the layers from 1 to before .*: give it one or more, from 0 on",
        ),
        ({"replicas": ()}, r"stage 0 is on the ranks \[\]: give each rank once"),
        ({"share": 0.5}, r"stage 0 has the shares \[0.5\]: give positive ones whose sum is 1"),
    ],
)
def test_stages_that_were_edited_wrongly_are_named(
    change: dict[str, Any], message: str, pair_file: Path, tmp_path: Path
) -> None:
    plan, path = planner.load_plan(pair_file), tmp_path / "plan.json"
    stage = plan.stages[0]
    if "share" in change:
        change = {"replicas": (replace(stage.replicas[0], **change),)}
    planner.save_plan(replace(plan, stages=(replace(stage, **change), *plan.stages[1:])), path)
    with pytest.raises(InputError, match=message):
        load_checked_plan(replace(PAIR, plan=str(path)))


@pytest.mark.parametrize("in_flight", [(), (1,), (2, 1, 1)])
def test_an_order_of_other_stages_is_named(
    in_flight: tuple[int, ...], pair_file: Path, tmp_path: Path
) -> None:
    plan, path = planner.load_plan(pair_file), tmp_path / "plan.json"
    schedule = replace(plan.schedule, order=Order(in_flight=in_flight, late_updates=False))
    planner.save_plan(replace(plan, schedule=schedule), path)
    with pytest.raises(InputError, match=rf"has 2 stages, and .* in flight at {len(in_flight)};"):
        load_checked_plan(replace(PAIR, plan=str(path)))


def test_options_that_agree_with_a_plan_file_are_taken(pair_file: Path) -> None:
    plan = planner.load_plan(pair_file)
    cuts = tuple(stage.first for stage in plan.stages[1:])
    agreeing = replace(PAIR, plan=str(pair_file), cuts=cuts, devices="TitanXp=1,TitanV=1")
    assert load_checked_plan(agreeing) == plan
    open_ones = replace(PAIR, plan=str(pair_file), devices=None, bandwidth_bits_per_s=None)
    assert load_checked_plan(open_ones) == plan


def test_a_plan_for_another_cluster_is_refused(pair_file: Path) -> None:
    plan, titans = planner.load_plan(pair_file), load("titan-8")
    check_planned_for(plan, "titan-8", titans, replace(PAIR, plan=str(pair_file)))
    with pytest.raises(InputError, match=r"TitanV=4,TitanXp=4, .* for TitanV=1,TitanXp=1; add"):
        check_planned_for(plan, "titan-8", titans, Options(scheme="pipeline"))
    with pytest.raises(InputError, match="its links or memory are not those"):
        check_planned_for(plan, "titan-8", titans, replace(PAIR, bandwidth_bits_per_s=None))


def test_devices_with_unlike_links_are_refused() -> None:
    one = load("titan-8").nodes[0]
    few = replace(one, name="few", devices=one.devices[:1])  # more of the interface for each
    check_links(replace(load("titan-8"), nodes=(one, replace(one, name="other"))))
    with pytest.raises(InputError, match=r"node 'few' gives each device a link of 2.5 Gb/s"):
        check_links(replace(load("titan-8"), nodes=(one, few)))


def test_devices_must_be_numbers() -> None:
    with pytest.raises(InputError, match="write kind=number"):
        planned(replace(PAIR, devices="TitanV"))
