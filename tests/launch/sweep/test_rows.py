"""Rows of the table: step times of the slowest rank, and scaling efficiency."""

from pathlib import Path
from typing import Any

import pytest

from launch.installed import system
from launch.sweep.points import Point
from launch.sweep.rows import Row, arranged, step_times_s
from systems.runs.record import Step, StepWriter


def row(nodes: int, samples_per_s: float | None, repetition: int = 0, **values: Any) -> Row:
    return Row(
        point=Point(tier="measured", repetition=repetition, values={**values, "nodes": nodes}),
        job=system("stanza").job(world_size=nodes),
        samples_per_s=samples_per_s,
        error="" if samples_per_s else "why",
    )


def test_a_step_lasts_as_long_as_its_slowest_rank(tmp_path: Path) -> None:
    for rank, times in enumerate([(9.0, 1.0, 2.0, 3.0), (9.0, 2.0, 1.0, 4.0)]):
        with StepWriter(tmp_path, rank) as writer:
            for index, step_s in enumerate(times):
                writer.write(Step(index, {"step_s": step_s}))
            writer.write(Step(4, {"window_s": 1.0}))
    assert step_times_s(tmp_path, {"step_s": {"n": 3}}, 2) == [2.0, 2.0, 4.0]
    assert step_times_s(tmp_path, {"step_s": 1.0}, 2) == []
    assert step_times_s(tmp_path, {}, 2) == []


def test_efficiency_is_over_the_median_of_the_smallest_world_that_has_run() -> None:
    rows = [row(1, None), row(2, 10.0), row(2, 20.0, 1), row(2, 12.0, 2), row(4, 18.0)]
    rows += [row(2, 5.0, scheme="ddp"), row(4, 10.0, scheme="ddp")]
    found = {(r.job.world_size, r.point.repetition, r.value("scheme")): r for r in arranged(rows)}
    assert found[1, 0, "stanza"].scaling_efficiency is None
    assert found[2, 0, "stanza"].scaling_efficiency == pytest.approx(10 / 12)
    assert found[4, 0, "stanza"].scaling_efficiency == pytest.approx((18 / 4) / (12 / 2))
    assert found[4, 0, "ddp"].scaling_efficiency == pytest.approx(1.0)


def test_rows_are_sorted_by_values_then_repetitions() -> None:
    rows = [row(10, 1.0), row(2, 1.0, 1), row(2, 1.0), row(4, 1.0)]
    found = [(r.job.world_size, r.point.repetition) for r in arranged(rows)]
    assert found == [(2, 0), (2, 1), (4, 0), (10, 0)]


def test_a_point_that_does_not_name_a_variable_has_the_value_of_the_job() -> None:
    old, new = row(2, 1.0), row(2, 1.0, seed=3)
    assert [old.value("seed"), new.value("seed")] == [0, 3]
