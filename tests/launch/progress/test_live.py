"""Where a run is, read from the record that its ranks are writing."""

import dataclasses
import json
import time
from collections import deque
from pathlib import Path

import pytest

from launch.planning import plan_job
from launch.progress.live import LiveRecord, Tail
from launch.progress.progress import _look
from launch.records import create_record
from stanza.options import Options
from stanza.system import SYSTEM as STANZA
from systems.profiles.emulation import Emulation
from systems.progress.table import draw, progress_line
from systems.runs.record import Step, StepWriter, steps_file, write_last


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The record of a run of two conv workers and an fc worker that has just been started."""
    options = Options(model="digits-cnn", fc_workers=1)
    job = STANZA.job(options, name="digits", world_size=3, out=str(tmp_path / "record"))
    return create_record(job, plan_job(job, may_measure=False))


def write(folder: Path, rank: int, steps: range, **metrics: float) -> None:
    with StepWriter(folder, rank) as writer:
        for index in steps:
            writer.write(Step(index, {"step_s": 0.5, **metrics}))


def test_a_run_without_steps_is_starting(folder: Path) -> None:
    record = LiveRecord(folder)
    assert record.poll() == []
    view = record.view()
    assert [row.state for row in view.rows] == ["starting"] * 3
    assert [row.role for row in view.rows] == ["conv", "conv", "fc"]
    assert (view.step, view.loss, view.left_s) == (None, None, None)
    assert progress_line(view) == "no step yet"


def test_throughput_loss_and_time_left_are_of_the_whole_run(folder: Path) -> None:
    write_last(folder, 20)
    write(folder, 0, range(10), samples=30)
    write(folder, 1, range(12), samples=34)
    write(folder, 2, range(11), loss_sum=128.0)
    record = LiveRecord(folder)
    assert len(record.poll()) == 33
    view = record.view()
    assert (view.step, view.last) == (9, 20)
    assert view.samples_per_s == 64 / 0.5
    assert view.loss == 2.0
    assert view.left_s == 10 * 0.5
    assert [row.step for row in view.rows] == [9, 11, 10]
    assert {row.state for row in view.rows} == {"running"}
    assert progress_line(view) == "step 9 of 20, 128 samples/s, loss 2.0000, 00:00:05 left"


def test_an_emulations_dilation_is_undone_but_for_the_time_left(tmp_path: Path) -> None:
    options = Options(model="alexnet", fc_workers=1)
    job = STANZA.job(options, world_size=2, cluster="ec2-p3-10g", out=str(tmp_path / "record"))
    plan = plan_job(job, may_measure=False)
    folder = create_record(job, plan, "emulated", Emulation(dilate=4.0))
    write_last(folder, 20)
    write(folder, 0, range(10), samples=30)
    write(folder, 1, range(10))
    record = LiveRecord(folder)
    record.poll()
    view = record.view()
    assert view.samples_per_s == 30 / 0.5 * 4
    assert [row.step_s for row in view.rows] == [0.125, 0.125]
    assert view.left_s == 10 * 0.5


def test_a_rank_that_makes_no_more_steps_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, 0, range(3))
    record = LiveRecord(folder)
    record.poll()
    later = time.monotonic() + 60
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert record.view().rows[0].state.startswith("no step for 6")


def test_the_last_step_and_a_result_mean_done(folder: Path) -> None:
    write_last(folder, 2)
    write(folder, 0, range(3))
    record = LiveRecord(folder)
    record.poll()
    assert [row.state for row in record.view().rows] == ["done", "starting", "starting"]
    (folder / "result.json").write_text("{}")
    assert {row.state for row in record.view().rows} == {"done"}


def test_a_line_that_is_not_whole_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    first, second = (json.dumps({"step": i, "loss": 0.5}) + "\n" for i in range(2))
    path.write_text(first + second[:7])
    assert [step.index for step in tail.read()] == [0]
    path.write_text(first + second)
    assert [step.index for step in tail.read()] == [1]
    assert tail.read() == []


def test_a_file_that_is_replaced_is_read_anew(folder: Path) -> None:
    write(folder, 0, range(5))
    tail = Tail(steps_file(folder, 0))
    assert len(tail.read()) == 5
    write(folder, 0, range(2))  # a restart
    assert [step.index for step in tail.read()] == [0, 1]


def test_the_table_has_a_line_for_every_rank(folder: Path) -> None:
    from rich.console import Console

    write(folder, 2, range(5))
    record = LiveRecord(folder)
    record.poll()
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    view = dataclasses.replace(record.view(), title="digits | tier measured")
    console.print(draw(view))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["rank", "role", "step", "step", "time", "state"] in lines
    assert ["1", "conv", "starting"] in lines
    assert ["2", "fc", "4", "500.0", "ms", "running"] in lines


def test_runs_that_follow_each_other_are_numbered(folder: Path) -> None:
    first, second = LiveRecord(folder), LiveRecord(folder)
    left = deque(enumerate([first, second]))
    assert _look(left, 2, []).title == "run 1 of 2: digits | tier measured"
    (folder / "result.json").write_text("{}")
    assert _look(left, 2, []).title == "run 2 of 2: digits | tier measured"
    assert _look(left, 2, []).title.startswith("run 2 of 2")
