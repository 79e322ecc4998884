"""SparsePipe's pipelines as users start them: trained, emulated, simulated, and bad input."""

import json
import math
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from launch.__main__ import main
from tests.emulation import needs_emulation
from tests.launch.commands.test_run import wait_until
from tests.ranks import ranks_of

TITAN = "launch/jobs/sparsepipe-titan8.toml"
SINGLE = "launch/jobs/sparsepipe-shapes-single.toml"
SHAPES = "launch/jobs/sparsepipe-shapes.toml"
PAIR = ["--world-size", "2", "--sparsepipe.devices", "TitanV=1,TitanXp=1"]
TINY = [
    *("--sparsepipe.width", "0.0625", "--sparsepipe.points", "128"),
    *("--sparsepipe.voxel-size", "0.1", "--sparsepipe.batch-size", "8"),
    *("--sparsepipe.steps", "6", "--sparsepipe.test-clouds", "16"),
]
PATIENCE_S = 120


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def start(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.distributed
def test_a_pipeline_trains_and_is_tested_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "record"
    flags = ["--world-size", "2", *TINY, "--out", str(out)]
    done = start(sys.executable, "-m", "launch", "run", SHAPES, *flags)
    assert done.returncode == 0, done.stderr
    assert "tier measured | 1f1b-async, minkvgg16-bn x 0.0625" in done.stdout
    result = read(out / "result.json")
    assert len(result["loss"]) == 6
    assert all(loss > 0 for loss in result["loss"])
    assert 0 <= result["test_accuracy"] <= 1
    assert len(result["utilisation"]) == 2
    job = (out / "job.toml").read_text()
    assert f"cuts = [\n    {result['stages'][1]['first']},\n]" in job


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.distributed
def test_deepspeed_trains_the_dense_twin_on_the_same_clouds(tmp_path: Path) -> None:
    out = tmp_path / "record"
    flags = ["--world-size", "2", *TINY, "--sparsepipe.scheme", "deepspeed", "--out", str(out)]
    done = start(sys.executable, "-m", "launch", "run", SHAPES, *flags)
    assert done.returncode == 0, done.stderr
    assert "DeepSpeed's PipelineModule, dense twin of minkvgg16-bn x 0.0625, 32^3 cells" in (
        done.stdout
    )
    result = read(out / "result.json")
    assert result["cells_per_step"] == 8 * 32**3
    assert len(result["loss"]) == 6
    assert result["loss"][0] == pytest.approx(math.log(12), rel=0.2)


@pytest.mark.distributed
def test_torchrun_starts_a_stage_a_rank(tmp_path: Path) -> None:
    out = tmp_path / "record"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "3", "-m", "launch", "worker", SHAPES, *TINY]
    done = start(*command, "--sparsepipe.schedule", "1f1b", "--out", str(out))
    assert done.returncode == 0, done.stderr
    result = read(out / "result.json")
    assert (result["scheme"], result["micro_batches"]) == ("1f1b", 4)
    sizes = [stage["end"] - stage["first"] for stage in result["stages"]]
    assert len(sizes) == 3
    assert max(sizes) - min(sizes) <= 1  # nothing is measured under a foreign launcher


@pytest.mark.distributed
def test_a_pipeline_infers_with_throughput_and_latency(tmp_path: Path) -> None:
    out = tmp_path / "record"
    flags = ["--world-size", "2", *TINY, "--sparsepipe.mode", "infer", "--out", str(out)]
    done = start(sys.executable, "-m", "launch", "run", SHAPES, *flags)
    assert done.returncode == 0, done.stderr
    assert "tier measured | forward, minkvgg16-bn x 0.0625" in done.stdout
    assert ", latency " in done.stdout
    result = read(out / "result.json")
    assert result["step_s"]["n"] == 6
    assert result["samples_per_s"] * result["mean_step_s"] == pytest.approx(8)
    assert result["latency_s"] > 0
    assert "test_accuracy" not in result


@pytest.mark.distributed
def test_a_killed_stage_ends_the_run_and_is_named(tmp_path: Path) -> None:
    """Long before the time-out of an hour, with which nothing but the death itself can end it."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc")
    out = tmp_path / "record"
    flags = ["--world-size", "2", *TINY, "--sparsepipe.steps", "4000", "--timeout-s", "3600"]
    command = [sys.executable, "-m", "launch", "run", SHAPES, *flags, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = out / "steps" / "rank-1.jsonl"
    try:
        wait_until(lambda: log.is_file() and log.read_text().count("\n") > 3, "the first steps")
        os.kill(ranks_of(out)[1], signal.SIGKILL)
        text, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode not in (0, None)
    assert "error: rank 1 (stage 1) was killed by SIGKILL" in text.splitlines(), text
    assert ranks_of(out) == {}


@needs_emulation
@pytest.mark.distributed
def test_an_emulated_pipeline_infers_at_the_speed_of_its_forward_passes(tmp_path: Path) -> None:
    """No upper bounds: this machine may be busy."""
    out = tmp_path / "record"
    flags = [*PAIR, "--sparsepipe.mode", "infer", "--sparsepipe.steps", "3", "--out", str(out)]
    done = start(sys.executable, "-m", "launch", "emulate", TITAN, *flags)
    assert done.returncode == 0, done.stderr
    result = read(out / "result.json")
    assert result["simulated_step_s"] < 0.8  # of 1.175 with the backward passes
    assert result["mean_step_s"] > 0.9 * result["simulated_step_s"]
    # A mini-batch goes through both stages, of which the slower one takes a step.
    assert result["latency_s"] > 1.1 * result["simulated_step_s"]
    assert "predicted_step_s" not in result


@needs_emulation
@pytest.mark.distributed
def test_an_emulated_pipeline_holds_three_step_times(tmp_path: Path) -> None:
    """No upper bounds: this machine may be busy."""
    out = tmp_path / "record"
    flags = [*PAIR, "--sparsepipe.steps", "2", "--out", str(out)]
    done = start(sys.executable, "-m", "launch", "emulate", TITAN, *flags)
    assert done.returncode == 0, done.stderr
    assert "tier emulated" in done.stdout
    assert "predicted: 117" in done.stdout
    result = read(out / "result.json")
    assert result["predicted_step_s"] == pytest.approx(1.175, abs=0.001)
    assert result["simulated_step_s"] == pytest.approx(1.175, rel=0.02)
    assert result["mean_step_s"] > 0.9
    assert len(result["utilisation"]) == len(result["compute_s"]) == 2
    assert "loss" not in result


def test_a_simulated_pipeline_takes_the_predicted_step(tmp_path: Path) -> None:
    out = tmp_path / "record"
    main(["simulate", TITAN, *PAIR, "--out", str(out)])
    result = read(out / "result.json")
    assert result["tier"] == "simulated"
    assert result["step_s"] == pytest.approx(result["predicted_step_s"], rel=0.02)
    assert max(result["utilisation"]) > 0.95
    assert read(out / "trace.json")["traceEvents"]
    plan = read(out / "run.json")["plan"]
    assert plan["pipeline"]["schedule"]["order"]["in_flight"] == result["in_flight"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["simulate", TITAN, "--world-size", "4"], "--world-size 4: cluster titan-8 has 8 devices"),
        (["simulate", SINGLE], "--sparsepipe.scheme single"),
        (
            ["run", SHAPES, "--sparsepipe.mode", "infer", "--sparsepipe.scheme", "single"],
            "mode infer",
        ),
        (["simulate", TITAN, "--sparsepipe.planner", "dpp"], "--sparsepipe.planner dpp"),
        (["simulate", TITAN, "--sparsepipe.profiles", "tv"], "there is no profile of one"),
        (["simulate", TITAN, "--sparsepipe.devices", "TitanV"], "write kind=number"),
        (["simulate", TITAN, "--sparsepipe.plan", "none.json"], "plan none.json: no such file"),
        (["run", SHAPES, "--world-size", "1"], "--world-size 1: a pipeline needs ranks"),
        (["run", SHAPES, "--sparsepipe.cuts", "9"], "--sparsepipe.cuts [9]: give 3 that ascend"),
        (["run", SHAPES, "--sparsepipe.scheme", "single"], "--world-size 4: one process trains"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--out", str(tmp_path / "record")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert said in error
