"""From options to a plan, its schedule and that one played."""

from dataclasses import replace
from pathlib import Path

import pytest

from sparsepipe import plan as planner
from sparsepipe.options import Options
from sparsepipe.planned import Planned, plan_pipeline
from systems.cluster import load
from systems.schema import InputError

PAIR = Options(
    scheme="pipeline", batch_size=128, devices="TitanV=1,TitanXp=1", bandwidth_bits_per_s=10e9
)


def planned(options: Options) -> Planned:
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


def test_a_plan_file_needs_its_own_profiles(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    planner.save(planned(PAIR).plan, path)
    given = replace(PAIR, plan=str(path))
    assert planned(given).plan == planner.load(path)
    assert planned(given).schedule(3) == planned(PAIR).schedule(3)
    with pytest.raises(InputError, match=r"--sparsepipe.profiles tv,rtx: .* of TitanXp"):
        planned(replace(given, profiles="tv,rtx"))
    with pytest.raises(InputError, match="no such file"):
        planned(replace(given, plan="missing.json"))


def test_devices_must_be_numbers() -> None:
    with pytest.raises(InputError, match="write kind=number"):
        planned(replace(PAIR, devices="TitanV"))
