"""Runs as users start them: real launchers, real ranks, records, and ranks that die."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from launch.records import read_result
from systems.runs.record import read_steps
from tests.ranks import listening, ranks_of

DIGITS = "launch/jobs/stanza-digits.toml"
LAUNCH = [sys.executable, "-m", "launch"]
PATIENCE_S = 90

pytestmark = pytest.mark.distributed


def finished(command: list[str]) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def test_run_leaves_a_record_that_runs_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["--stanza.fc-workers", "1", "--world-size", "2", "--stanza.steps", "12"]
    flags += ["--trace", "--torch-profiler"]
    text = finished([*LAUNCH, "run", DIGITS, *flags, "--out", str(first)])
    head = next(line for line in text.splitlines() if line.startswith("stanza-digits"))
    for words in ("tier measured", "world size 2", "1 conv (0), 1 fc (1)", "1,797 real images"):
        assert words in head
    assert "  step 6/12, " in text
    run = json.loads((first / "run.json").read_text())
    assert run["command"].startswith(f"python -m launch run {DIGITS} --stanza.fc-workers 1")
    assert run["tier"] == "measured"
    assert [step.index for step in read_steps(first, 1)] == list(range(13))
    events = json.loads((first / "trace.json").read_text())["traceEvents"]
    assert {"conv forward", "fc forward and backward"} <= {event["name"] for event in events}
    for rank in range(2):
        profile = json.loads((first / "torch-profiler" / f"rank-{rank}.json").read_text())
        steps = [e for e in profile["traceEvents"] if e["name"].startswith("ProfilerStep#")]
        assert len(steps) == 5
    assert all(of_rank["peak_memory_bytes"] > 2**20 for of_rank in result_of(first)["usage"])

    finished([*LAUNCH, "run", "--again", str(first), "--out", str(second)])
    ours, again = result_of(first), result_of(second)
    assert ours["loss"] == pytest.approx(again["loss"], rel=1e-6)
    assert len(ours["bytes_per_step"]) == 2


def test_torchrun_starts_workers_directly(tmp_path: Path) -> None:
    folder = tmp_path / "record"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    flags = ["--stanza.steps", "8", "--out", str(folder)]
    finished([*torchrun, "--nproc-per-node", "2", "-m", "launch", "worker", DIGITS, *flags])
    roles = [row["role"] for row in result_of(folder)["bytes_per_step"]]
    assert roles == ["conv", "fc"]


def wait_until(ready: Any, what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if value := ready():
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {PATIENCE_S} s")


@pytest.fixture
def endless(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run of two ranks that has done some steps and would do many more."""
    launcher = getattr(request, "param", "torchrun")
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc")
    folder = tmp_path / "record"
    flags = ["--world-size", "2", "--stanza.steps", "1000000", "--timeout-s", "10"]
    flags += ["--launcher", launcher]
    here = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's would be inherited
    process = subprocess.Popen(
        [*LAUNCH, "run", DIGITS, *flags, "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    signal.signal(signal.SIGHUP, here)
    log = folder / "steps" / "rank-0.jsonl"
    try:
        wait_until(lambda: log.is_file() and log.read_text().count("\n") > 3, "the first steps")
        yield process, folder
    finally:
        process.kill()
        for pid in ranks_of(folder).values():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "endless",
    [
        "torchrun",
        "local",
        pytest.param(
            "deepspeed",
            marks=pytest.mark.skipif(find_spec("deepspeed") is None, reason="no DeepSpeed"),
        ),
    ],
    indirect=True,
)
def test_a_killed_rank_ends_the_run_and_is_named(
    endless: tuple[subprocess.Popen[str], Path],
) -> None:
    process, folder = endless
    os.kill(ranks_of(folder)[1], signal.SIGKILL)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode not in (0, None)
    assert "error: rank 1 (fc) was killed by SIGKILL" in text.splitlines(), text
    assert str(folder) in text.strip().splitlines()[-1]
    assert ranks_of(folder) == {}
    assert len(read_steps(folder, 0)) > 3
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize("endless", ["torchrun", "local"], indirect=True)
def test_a_run_on_one_machine_listens_on_loopback_only_and_outlives_its_reader(
    endless: tuple[subprocess.Popen[str], Path],
) -> None:
    process, folder = endless
    of_run = listening(process.pid)
    assert set(of_run) == {"127.0.0.1"}
    assert sum(of_run.values()) > 2  # the store, and gloo in every rank
    assert process.stdout is not None
    process.stdout.close()
    lines = folder / "steps" / "rank-1.jsonl"
    before = lines.stat().st_size
    wait_until(lambda: lines.stat().st_size > before + 10_000, "more steps")
    assert process.poll() is None


def test_a_stopped_rank_ends_the_run_and_is_named(
    endless: tuple[subprocess.Popen[str], Path],
) -> None:
    process, folder = endless
    os.kill(ranks_of(folder)[1], signal.SIGSTOP)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode not in (0, None)
    assert text.count("error: hang: ") == 1, text
    assert "everybody waits for rank 1 (fc), which is silent" in text
    assert "SIGKILL" in text[text.index("Root Cause") :]
    assert ranks_of(folder) == {}


def test_ranks_do_not_outlive_a_killed_launcher(
    endless: tuple[subprocess.Popen[str], Path],
) -> None:
    process, folder = endless
    process.kill()
    wait_until(lambda: not ranks_of(folder), "the end of the ranks")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_run(
    number: signal.Signals, endless: tuple[subprocess.Popen[str], Path]
) -> None:
    process, folder = endless
    process.send_signal(number)
    text, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number
    assert f"error: stopped by {number.name}; what is done stays" in text
    assert not (folder / "failed-rank").exists()
    wait_until(lambda: not ranks_of(folder), "the end of the ranks")


def test_a_lost_loss_is_said_once_and_is_null_in_the_record(tmp_path: Path) -> None:
    out = tmp_path / "record"
    flags = ["--stanza.scheme", "ddp", "--stanza.steps", "6", "--stanza.learning-rate", "1e30"]
    command = [sys.executable, "-m", "launch", "run", DIGITS, "--launcher", "local", *flags]
    done = subprocess.run(
        [*command, "--world-size", "2", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: the loss is nan since step 1 ") == 1
    assert done.stderr.count("the loss is") == 1

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    result = json.loads((out / "result.json").read_text(), parse_constant=refuse)
    assert result["loss"][0] > 0
    assert result["loss"][1:] == [None] * 5
    assert result["first_not_finite_step"] == 1
    assert result["not_finite_values"] == 15  # of two ranks, and of the result's losses
    for rank in range(2):
        text = (out / "steps" / f"rank-{rank}.jsonl").read_text()
        for line in text.splitlines():
            json.loads(line, parse_constant=refuse)
    assert math.isnan(read_result(out)["loss"][1])
    assert math.isnan(read_steps(out, 1)[1].metrics["loss_sum"])


def test_sparsepipe_trains_in_one_process(tmp_path: Path) -> None:
    flags = ["--sparsepipe.steps", "4", "--sparsepipe.points", "100", "--sparsepipe.test-clouds"]
    job = ["launch/jobs/sparsepipe-shapes-single.toml", *flags, "12"]
    text = finished([*LAUNCH, "run", *job, "--out", str(tmp_path / "run")])
    assert "tier measured | single, minkvgg16-bn x 0.125" in text
    assert "data shapes (synthetic, 12 classes" in text
    result = result_of(tmp_path / "run")
    assert len(result["loss"]) == 4
    assert 0 <= result["test_accuracy"] <= 1
    again = finished(
        [*LAUNCH, "run", "--again", str(tmp_path / "run"), "--out", str(tmp_path / "again")]
    )
    assert "test accuracy" in again
    assert result_of(tmp_path / "again")["digest"] == result["digest"]
