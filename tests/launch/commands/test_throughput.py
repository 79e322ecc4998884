"""A sweep leaves a record for every point, a table and a CSV, and goes on where it stopped."""

import csv
import json
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.commands import throughput
from launch.commands.throughput import Point, step_times_s
from systems.job import Job
from systems.runs.record import Step, StepWriter

JOB = ["throughput", "launch/jobs/stanza-digits.toml"]
SMALL = ["--launcher", "local", "--stanza.steps", "6", "--stanza.scheme", "single"]


@pytest.mark.distributed
def test_points_are_measured_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sweep"
    command = [*JOB, *SMALL, "--world-sizes", "1", "--out", str(folder), "--batch-sizes", "48"]
    main(command)
    first = (folder / "world-1-batch-48" / "result.json").stat().st_mtime_ns
    (folder / "world-1-batch-96").mkdir()  # of a run that was interrupted
    (folder / "world-1-batch-96" / "job.toml").write_text("")
    capfd.readouterr()
    main([*command, "96", "2000"])
    assert (folder / "world-1-batch-48" / "result.json").stat().st_mtime_ns == first

    rows = list(csv.DictReader((folder / "throughput.csv").open()))
    assert [(row["world_size"], row["batch_size"]) for row in rows] == [
        ("1", "48"),
        ("1", "96"),
        ("1", "2000"),
    ]
    for row in rows[:2]:
        assert float(row["samples_per_s"]) > 0
        assert 0 < float(row["step_p50_s"]) <= float(row["step_p90_s"]) <= float(row["step_p99_s"])
        assert row["steps"] == "3"  # after three of warm-up
        assert float(row["utilisation"]) > 0
        assert int(row["peak_memory_bytes"]) > 2**20
        result = json.loads(Path(row["record"], "result.json").read_text())
        assert result["samples_per_step"] == int(row["batch_size"])
    assert "1437" in rows[2]["error"]  # there are not more samples
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [["1", "48"], ["1", "96"], ["1", "2000"]]
    assert "--batch-sizes 2000" in rows[2]["error"]

    main([*JOB, *SMALL, "--world-sizes", "1", "--out", str(folder)])  # the job has a batch of 96
    kept = list(csv.DictReader((folder / "throughput.csv").open()))
    assert kept == rows[:2]  # a point of an earlier sweep stays, as its record does
    assert "with 1 points of earlier sweeps" in capfd.readouterr().out


def test_an_interrupted_sweep_keeps_all_points_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(job: Job, world_size: int, batch_size: int, folder: Path) -> Point:
        if batch_size == 96:
            raise KeyboardInterrupt
        return Point(world_size=world_size, batch_size=batch_size, steps=3, record="new")

    earlier = Point(world_size=1, batch_size=192, steps=3, record="earlier")
    monkeypatch.setattr(throughput, "_run_point", run)
    monkeypatch.setattr(throughput, "_recorded", lambda folder: iter([earlier]))
    sizes = ["--world-sizes", "1", "--batch-sizes", "48", "96", "192"]
    with pytest.raises(SystemExit):
        main([*JOB, *sizes, "--out", str(tmp_path / "sweep")])
    rows = list(csv.DictReader((tmp_path / "sweep" / "throughput.csv").open()))
    assert [(row["batch_size"], row["record"]) for row in rows] == [
        ("48", "new"),
        ("192", "earlier"),
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stanza.global-batch-size", "None", "--stanza.fc-workers", "auto"], "-sizes (none)"),
        (["--batch-sizes", "0"], "--batch-sizes 0: give whole numbers from 1 on"),
        (["--batch-sizes", "8", "--launcher", "slurm"], "--launcher slurm: a sweep waits"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*JOB, *flags, "--out", str(tmp_path / "sweep")])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_another_jobs_points_are_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*JOB, "--out", str(tmp_path), "--batch-sizes", "2000"]
    with pytest.raises(SystemExit) as refused:
        main(command)
    assert refused.value.code == 1  # no point could be run
    with pytest.raises(SystemExit) as stop:
        main([*command, "--stanza.momentum", "0.5"])
    assert stop.value.code == 2
    assert "holds the points of another job" in capsys.readouterr().err


def test_a_step_lasts_as_long_as_its_slowest_rank(tmp_path: Path) -> None:
    for rank, times in enumerate([(9.0, 1.0, 2.0, 3.0), (9.0, 2.0, 1.0, 4.0)]):
        with StepWriter(tmp_path, rank) as writer:
            for index, step_s in enumerate(times):
                writer.write(Step(index, {"step_s": step_s}))
            writer.write(Step(4, {"window_s": 1.0}))
    result = {"step_s": {"n": 3}, "usage": [{}, {}]}
    assert step_times_s(tmp_path, result) == [2.0, 2.0, 4.0]
    assert step_times_s(tmp_path, {"usage": [{}, {}]}) == []
