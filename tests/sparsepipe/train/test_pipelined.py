"""Training in a pipeline: where the network is cut, what is trained on, bad input."""

from dataclasses import replace

import pytest

from sparsepipe.options import Options
from sparsepipe.planner.stages import Order, ScheduleChoice, ScheduleName
from sparsepipe.train.stages import (
    balanced_cuts,
    check_stages,
    schedule_choice_of,
    schedule_of,
    stages_at_cuts,
)
from sparsepipe.train.summary import steady_state
from sparsepipe.train.workload import open_workload
from systems.runs.record import Step
from systems.schema import InputError

SMALL = Options(scheme="pipeline", width=0.0625, points=128, voxel_size=0.1, batch_size=6)
WORKLOAD = open_workload(SMALL, 0)


def test_stages_have_equally_many_layers_where_nothing_is_said() -> None:
    stages = stages_at_cuts(SMALL, WORKLOAD, 4)
    sizes = [stage.end - stage.first for stage in stages]
    assert max(sizes) - min(sizes) <= 1
    assert [stage.replicas[0].rank for stage in stages] == [0, 1, 2, 3]
    check_stages(stages, WORKLOAD, 4)


def test_measured_cuts_make_stages() -> None:
    cuts = balanced_cuts(WORKLOAD, 2)
    assert cuts is not None
    stages = stages_at_cuts(replace(SMALL, cuts=cuts), WORKLOAD, 2)
    assert [stage.first for stage in stages] == [0, *cuts]


@pytest.mark.parametrize("cuts", [(3, 5), (0,), (10**6,)])
def test_cuts_that_do_not_fit_are_refused(cuts: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"--sparsepipe.cuts .*give 1 that ascend"):
        stages_at_cuts(replace(SMALL, cuts=cuts), WORKLOAD, 2)


def test_stages_of_another_network_are_refused() -> None:
    stages = stages_at_cuts(SMALL, WORKLOAD, 3)
    with pytest.raises(InputError, match=r"--sparsepipe\.plan"):
        check_stages(stages[:-1], WORKLOAD, 3)
    with pytest.raises(InputError, match=r"is for 3 ranks"):
        check_stages(stages, WORKLOAD, 2)


def test_flushing_has_micro_batches_and_asynchronous_none() -> None:
    assert schedule_choice_of(SMALL).micro_batches == 1
    assert schedule_choice_of(replace(SMALL, schedule="1f1b")).micro_batches == 4
    assert schedule_choice_of(replace(SMALL, schedule="gpipe", micro_batches=2)).micro_batches == 2


def test_a_plans_mini_batches_in_flight_are_trained_with() -> None:
    stages = stages_at_cuts(SMALL, WORKLOAD, 3)
    kind = ScheduleChoice(name="1f1b-async", order=Order(in_flight=(6, 4, 1), late_updates=False))
    assert schedule_of(stages, kind, 20).in_flight == (6, 4, 1)
    assert schedule_of(stages, schedule_choice_of(SMALL), 20).in_flight == (3, 2, 1)


@pytest.mark.parametrize("name", ["1f1b", "1f1b-async"])
def test_a_single_mini_batch_has_a_time(name: ScheduleName) -> None:
    kind = schedule_choice_of(replace(SMALL, schedule=name))
    schedule = schedule_of(stages_at_cuts(SMALL, WORKLOAD, 2), kind, 1)
    busy = {"step_s": 2.0, "compute_s": 1.0, "samples": 6}
    everyone = [
        [Step(0, {"began_s": 1.0 + rank, "ended_s": 4.0 - rank, **busy})] for rank in range(2)
    ]
    steady = steady_state(schedule, everyone, 0)
    assert steady.step_s == [3.0]
    assert steady.samples_per_s == 2.0
    assert steady.utilisation == [0.5, 0.5]
