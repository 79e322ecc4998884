"""A disk that is full while a run writes: one line says so, and what is there stays."""

import sys
from pathlib import Path

import pytest

from systems.runs.manifest import FOLDER, newest
from systems.runs.record import read_steps
from tests.mounts import in_mounts, needs_mounts

pytestmark = [pytest.mark.distributed, needs_mounts]

RUN = [sys.executable, "-m", "launch", "run", "launch/jobs/stanza-digits.toml"]
RUN += ["--world-size", "1", "--stanza.scheme", "single", "--stanza.steps", "8"]


@pytest.mark.parametrize("launcher", ["local", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_a_checkpoint_that_does_not_fit(launcher: str, tmp_path: Path) -> None:
    """Of the checkpoints, 4.4 MB each, the disk holds one."""
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    command = [*RUN, "--launcher", launcher, "--checkpoint-every", "3", "--out", f"{disk}/run"]
    done = in_mounts({disk: "size=7m"}, command, f"cp -r {disk}/run {copy}")
    assert done.returncode not in (0, 120)
    told = [line for line in done.stderr.splitlines() if "disk full" in line]
    # torchrun's own report repeats the reason where its other folder, in /tmp, has room.
    line, *summary = [line for line in told if not line.strip().startswith("traceback :")]
    assert len(summary) <= 1  # the supervisor's, if the disk had room for the reason
    assert all("ended with code 2: disk full" in line for line in summary)
    assert line == (
        f"error: disk full: the checkpoint after step 6 could not be written in "
        f"{disk}/run/checkpoints; kept: the checkpoint step-00000003 and the steps so far in "
        f"{disk}/run/steps; make room and go on with: testbed run --again {disk}/run --resume "
        f"{disk}/run"
    )
    assert "Traceback (most" not in done.stderr
    assert "ended with code 2" in done.stderr  # who it was: by the supervisor
    found = newest(copy / FOLDER)
    assert found is not None
    assert found.manifest.step == 3
    assert [path.name for path in (copy / FOLDER).iterdir()] == ["step-00000003"]
    assert [step.index for step in read_steps(copy, 0)] == list(range(6))


def test_every_other_file_of_a_run(tmp_path: Path) -> None:
    """Steps, a result, a job, a trace, a pair's checkpoint, and what a supervisor is told."""
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    command = [sys.executable, "-m", "tests.full_disk", str(disk)]
    done = in_mounts({disk: "size=64k"}, command, f"cp -r {disk} {copy}")
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    for name in ("steps/rank-0.jsonl", "result.json", "job.toml", "table.csv", "pair.checkpoint"):
        where, file = str(disk / name).rsplit("/", 1)
        assert f"disk full: {file} could not be written in {where}" in told
    traced, supervised = done.stderr.splitlines()
    assert traced == (
        f"warning: disk full: {disk}/trace/rank-0.jsonl could not be written; the trace of rank 0 "
        "ends here, and the run goes on"
    )
    assert supervised == "error: rank 3 ended with code 2"
    steps = read_steps(copy, 0)
    assert [step.index for step in steps] == list(range(len(steps)))
    assert len(steps) > 10
    for name in ("result.json", "job.toml", "table.csv", "pair.checkpoint"):
        assert (copy / name).read_text() == "old"
    assert not list(copy.glob("**/*.partial"))


def test_the_output_goes_to_the_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    planned = f"{sys.executable} -m launch plan stanza --model vgg16 --cluster ec2-p3-10g"
    script = f"head -c 1m /dev/zero > {disk}/zeros 2> /dev/null; exec {planned} > {disk}/log"
    command = ["bash", "-c", script]
    done = in_mounts({disk: "size=64k"}, command)
    assert done.returncode == 2
    assert done.stderr == "error: disk full: the output could not be written\n"
