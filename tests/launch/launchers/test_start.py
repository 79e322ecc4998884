"""One job file under every launcher: the same losses, and a record that says who started it."""

import functools
import importlib.util
import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from launch.launchers.start import find_mpirun, run_command, start_command
from launch.planning import plan_job
from launch.records import create_record
from stanza.options import Options
from stanza.system import SYSTEM as STANZA
from systems.processes import failures
from systems.schema import InputError

RUN = [sys.executable, "-m", "launch", "run", "launch/jobs/stanza-digits.toml"]
SMALL = ["--world-size", "2", "--stanza.steps", "10"]
EQUAL = 1e-5
"""Relative difference of two losses."""
PATIENCE_S = 90
FLAGS = {"local": (), "mpirun": ("--transport", "mpi"), "deepspeed": ()}


@functools.cache
def result(launcher: str, *flags: str) -> dict[str, Any]:
    """Of the job, run once under each launcher."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*RUN, *SMALL, "--launcher", launcher, *flags, "--out", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(Path(folder, "run.json").read_text())["launcher"] == launcher
        found: dict[str, Any] = json.loads(Path(folder, "result.json").read_text())
        return found


@pytest.mark.distributed
@pytest.mark.parametrize(
    "launcher", [pytest.param(n, marks=[pytest.mark.slow] * (n == "deepspeed")) for n in FLAGS]
)
def test_every_launcher_gives_the_losses_of_torchrun(launcher: str) -> None:
    if launcher == "mpirun" and find_mpirun() is None:
        pytest.skip("no mpirun; pip install 'systems-testbed[mpi]'")
    if launcher == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("no DeepSpeed; pip install 'systems-testbed[deepspeed]'")
    ours, reference = result(launcher, *FLAGS[launcher]), result("torchrun")
    assert (ours["launcher"], reference["launcher"]) == (launcher, "torchrun")
    assert len(ours["loss"]) == 10
    assert ours["loss"] == pytest.approx(reference["loss"], rel=EQUAL)


@pytest.mark.distributed
def test_a_rank_that_fails_under_mpirun_ends_the_run_and_its_reason_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_mpirun() is None:
        pytest.skip("no mpirun; pip install 'systems-testbed[mpi]'")
    with socket.create_server(("", 0)) as taken:  # it never answers the ranks that connect to it
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        command = [*RUN, *SMALL, "--launcher", "mpirun", "--out", str(tmp_path / "record")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    reason = f"port {port} cannot be listened on: Address already in use"
    assert done.returncode == 2, done.stderr
    assert f"error: {reason}" in done.stderr
    assert f"error: rank 0 (conv) failed: {reason}" in done.stderr
    assert "Traceback" not in done.stderr
    (kept,) = failures.read(tmp_path / "record")
    assert (kept["rank"], kept["reason"].partition(";")[0]) == (0, reason)


def test_the_rank_that_failed_first_is_named_with_its_role_in_the_record_that_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for options in (Options(scheme="ddp"), Options(fc_workers=1)):
        job = STANZA.job(options, world_size=2, out=str(tmp_path / options.scheme))
        folders.append(create_record(job, plan_job(job, may_measure=False)))
    (folders[0] / "result.json").write_text("{}")  # has ended
    fail = (
        "from systems.processes.supervise import tell; tell(1, -9); tell(0, 1); raise SystemExit(3)"
    )
    assert run_command([sys.executable, "-c", fail], {}, folders) == 3
    assert capfd.readouterr().err == "error: rank 1 (fc) was killed by SIGKILL\n"


@pytest.mark.parametrize("launcher", ["mpirun", "deepspeed"])
def test_a_missing_launcher_names_the_command_that_installs_it(
    launcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.launchers.start.find_mpirun", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"--launcher {launcher}: .*pip install 'systems-testbed"):
        start_command(STANZA.job(launcher=launcher), [])
