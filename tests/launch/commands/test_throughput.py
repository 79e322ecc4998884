"""Throughput is a measured sweep over world sizes and batch sizes."""

import csv
import json
from pathlib import Path

import pytest

from launch.__main__ import main

JOB = ["throughput", "launch/jobs/stanza-digits.toml"]
SMALL = ["--launcher", "local", "--stanza.steps", "6", "--stanza.scheme", "ddp"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.distributed
def test_points_are_measured_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sweep"
    half = folder / "records" / "measured-nodes-2-batch-size-48-0"
    command = [*JOB, *SMALL, "--out", str(folder), "--world-sizes", "2", "--batch-sizes"]
    with pytest.raises(SystemExit):
        main([*command, "2000"])
    half.mkdir()  # of a run that was interrupted
    (half / "job.toml").write_text("")
    main([*command, "48"])
    rows = table(folder / "throughput.csv")
    assert [(row["nodes"], row["batch_size"]) for row in rows] == [("2", "48"), ("2", "2000")]
    point, too_large = rows
    assert "--batch-sizes 2000" in too_large["error"]
    assert "1437" in too_large["error"]  # there are not more samples
    assert (point["system"], point["model"], point["scheme"]) == ("stanza", "digits-cnn", "ddp")
    assert point["measured_steps"] == "3"  # after three of warm-up
    assert point["scaling_efficiency"] == "1.0"  # of the smallest world itself
    result = json.loads(Path(point["record"], "result.json").read_text())
    assert result["samples_per_s"] == float(point["samples_per_s"])
    (drawn,) = table(folder / "samples-per-s.csv")
    assert drawn["value"] == point["samples_per_s"]
    assert "efficiency (of scaling)" in capfd.readouterr().out

    measured = Path(point["record"], "result.json").stat().st_mtime_ns
    main([*command, "48", "3000"])
    assert Path(point["record"], "result.json").stat().st_mtime_ns == measured
    assert [r for r in table(folder / "throughput.csv") if r["batch_size"] != "3000"] == rows


def test_a_batch_for_each_worker_needs_no_batch_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = ["--stanza.global-batch-size", "None", "--stanza.local-batch-size", "8"]
    flags = ["--world-sizes", "2", "4", "--elsewhere", "--out", str(tmp_path)]
    main([*JOB, "--stanza.fc-workers", "auto", *batch, *flags])
    assert "left to run: 2 points." in capsys.readouterr().out
    assert [row["nodes"] for row in table(tmp_path / "throughput.csv")] == ["2", "4"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch-sizes", "0"], "--batch-sizes 0: give whole numbers from 1 on"),
        (["--world-sizes", "0", "2"], "--world-sizes 0 2: give whole numbers from 1 on"),
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
    error = capsys.readouterr().err
    assert "holds the points of another job, with --stanza.momentum 0.9 and not 0.5" in error
