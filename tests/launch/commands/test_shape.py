"""Shaped runs: what they train, what their records say, what stays behind, and bad input."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from launch import records
from launch.__main__ import main
from launch.commands.shape import prepare_shaped, run_shaped
from launch.launchers.start import run_ranks
from stanza.options import Options
from stanza.system import SYSTEM as STANZA
from systems.clusters.shape import Shape, shape_of
from systems.network import namespaces
from systems.processes import core_shares
from systems.runs.checkpoint import read_model
from systems.runs.manifest import FINAL, FOLDER
from systems.schema import InputError
from tests import shaped
from tests.emulation import needs_emulation
from tests.kills_emulated import How, disturb

RANKS, RATE = 2, 3e8
SCHEMES: dict[str, dict[str, Any]] = {
    "stanza": {},
    "ddp": {"scheme": "ddp"},
    "ps": {"scheme": "ps"},
}
PATIENCE_S = 120


def options(scheme: str) -> Options:
    return dataclasses.replace(shaped.DIGITS, **SCHEMES[scheme])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The records of one shaped world, by scheme."""
    parent, on = (
        tmp_path_factory.mktemp("shaped"),
        shaped.shape(RANKS, share=0.5, rate_bits_per_s=RATE),
    )
    found = {
        scheme: prepare_shaped(
            shaped.job(options(scheme), parent / scheme), on, shaped.measured(on)
        )
        for scheme in SCHEMES
    }
    assert run_shaped(list(found.values())) == 0
    return found


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@needs_emulation
@pytest.mark.distributed
def test_the_parameters_are_those_of_a_run_without_a_box(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    jobs = {s: shaped.job(options(s), tmp_path / s) for s in SCHEMES}
    plans = {s: STANZA.planning.plan(job, False) for s, job in jobs.items()}
    without = [records.create_record(jobs[s], plans[s]) for s in SCHEMES]
    assert run_ranks(jobs["stanza"], without) == 0
    for scheme, folder in zip(SCHEMES, without, strict=True):
        here = read_model(folder / FOLDER / FINAL)
        there = read_model(folders[scheme] / FOLDER / FINAL)
        assert here.keys() == there.keys()
        for name, value in here.items():
            torch.testing.assert_close(there[name], value, rtol=0, atol=1e-6)


@needs_emulation
@pytest.mark.distributed
def test_the_record_says_how_its_numbers_were_obtained(folders: dict[str, Path]) -> None:
    result, run = read(folders["stanza"] / "result.json"), read(folders["stanza"] / "run.json")
    assert result["tier"] == run["tier"] == "shaped"
    assert result["launcher"] == "shape"
    assert result["predicted_step_s"] > 0  # of the profile that was given
    assert result["simulated_step_s"] > 0
    assert result["loss"][-1] < result["loss"][0]
    assert 0 < result["test_accuracy"] <= 1
    assert len(result["calibration"]["pairs"]) == 1
    assert {len(speeds) for speeds in result["speeds_per_s"].values()} == {RANKS}
    assert any("as when it was profiled" in reason for reason in result["host_busy"])  # 1000 per s
    if core_shares.unavailable() is None:
        assert "held by cgroup" in result["shape"]["held"]
        assert max(result["throttled"]) > 0
    shape = folders["stanza"] / "shape.toml"
    assert run["again"].endswith(f"job.toml --shape {shape}")
    assert shape_of(str(shape), RANKS) == shaped.shape(RANKS, share=0.5, rate_bits_per_s=RATE)


@needs_emulation
@pytest.mark.distributed
def test_a_run_is_measured_planned_and_predicted(tmp_path: Path) -> None:
    flags = ["--world-size", "2", "--stanza.steps", "6", "--stanza.fc-workers", "auto"]
    job = ["launch/jobs/stanza-digits.toml", "--shape", "four-100m", *flags]
    done = subprocess.run(
        [sys.executable, "-m", "launch", "run", *job, "--out", str(tmp_path / "record")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "measuring 2 nodes at 0.1 Gb/s, shares of a core 0.4" in done.stderr
    assert "tier shaped (2 nodes at 0.1 Gb/s" in done.stdout
    shaped_run = read(tmp_path / "record" / "run.json")["shaped"]
    (profile,) = shaped_run["measured"]["profiles"].values()
    assert profile["device"] == "0.4 of a core"
    assert sum(layer["forward_s"] + layer["backward_s"] for layer in profile["layers"]) > 0
    result = read(tmp_path / "record" / "result.json")
    assert result["predicted_step_s"] > 0
    assert core_shares.leftovers() == []


@needs_emulation
@pytest.mark.distributed
@pytest.mark.parametrize("how", [pytest.param("rank", marks=pytest.mark.slow), "SIGKILL"])
def test_a_run_that_is_ended_leaves_nothing(how: How, tmp_path: Path) -> None:
    """Other ways are slow tests; other moments: `python -m tests.kills_emulated 20 shaped`."""
    assert disturb("shaped", tmp_path / "record", how, after_step=0, after_s=0) == []


@needs_emulation
@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_twenty_runs_that_are_ended_leave_nothing(number: int, tmp_path: Path) -> None:
    hows: tuple[How, ...] = ("rank", "SIGINT", "SIGTERM", "SIGKILL", "forker")
    after_step, after_s = (-1, number * 0.4) if number % 3 == 0 else (number, 0.1 * (number % 5))
    fault = disturb(
        "shaped", tmp_path / "record", hows[number % 5], after_step=after_step, after_s=after_s
    )
    assert fault == []


@needs_emulation
@pytest.mark.distributed
@pytest.mark.slow
def test_two_boxes_side_by_side(tmp_path: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.shaped", str(tmp_path / name), "4"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("one", "other")
    ]
    for process in both:
        text, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, text
    results = [read(tmp_path / name / "result.json") for name in ("one", "other")]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], abs=1e-6)
    assert core_shares.leftovers() == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--shape", "local"], "--shape local: the rate of the link of node 'rank' is not known"),
        (["--shape", "no-such"], "--shape no-such: neither a preset nor a file"),
        (["--shape", "titan-8"], "has several devices: a shaped run has one rank a node"),
        (["--shape", "four-100m", "--launcher", "local"], "--launcher local: ranks of a shaped"),
        (["--shape", "four-100m", "--max-restarts", "2"], "--max-restarts 2: ranks of a shaped"),
        (
            ["--shape", "four-100m", "--profile", "vgg16"],
            "--profile vgg16: a shaped run is planned",
        ),
        (["--shape", "four-100m", "--device", "cuda"], "--device cuda: a share of a core"),
        (["--shape", "four-100m", "--delay-s", "-1"], "--delay-s -1: give 0 or more seconds"),
        (["--shape", "four-100m", "--jitter-s", "1"], "--jitter-s 1: is more than the delay"),
        (["--shape", "four-100m", "--packet-loss", "1"], "--packet-loss 1: give a share"),
        (["--delay-s", "0.1"], "--jitter-s, --packet-loss: are of a shaped cluster"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("launch.commands.shape.check_available", lambda: None)
    with pytest.raises(SystemExit) as stop:
        main(["run", "launch/jobs/stanza-digits.toml", *flags, "--out", str(tmp_path / "record")])
    text = capsys.readouterr().err
    assert stop.value.code == 2, text
    assert text.startswith("error: ")
    assert len(text.splitlines()) == 1
    assert said in text
    assert not (tmp_path / "record" / "run.json").exists()


def test_without_root_a_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit):
        main(["run", "launch/jobs/stanza-digits.toml", "--shape", "four-100m"])
    assert "need network namespaces: not root; run as root" in capsys.readouterr().err


def test_without_control_groups_links_alone_are_shaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_shares, "hierarchy", lambda: None)
    monkeypatch.setattr("launch.commands.shape.check_available", lambda: None)
    on = shaped.shape(RANKS, share=0.5)
    folder = prepare_shaped(shaped.job(options("ddp"), tmp_path / "r"), on, shaped.measured(on))
    found = records.read_shaped(folder)
    assert found is not None
    assert found.held.startswith("links only: no control group of this machine")


@needs_emulation
def test_a_kernel_without_netem_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tool: str, namespace: int, commands: list[str]) -> None:
        assert "netem limit" in commands[0]
        raise InputError("network namespaces: tc failed: Specified qdisc kind is unknown.")

    monkeypatch.setattr(namespaces, "_batch", refuse)
    with pytest.raises(SystemExit) as stop:
        main(["run", "launch/jobs/stanza-digits.toml", "--shape", "four-100m", "--delay-s", "0.01"])
    assert stop.value.code == 2


def test_nodes_that_differ_are_run_without_a_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.commands.shape.check_available", lambda: None)
    (node,) = shaped.shape(1, share=0.5).cluster.nodes
    slow = dataclasses.replace(
        node, name="slow", link=dataclasses.replace(node.link, bandwidth_bits_per_s=1e8)
    )
    two = dataclasses.replace(shaped.shape(1).cluster, nodes=(node, slow))
    on = Shape(cluster=two)
    assert on.rates_bits_per_s == (1e9, 1e8)
    job = shaped.job(options("ddp"), tmp_path / "r")
    plan = read(prepare_shaped(job, on, shaped.measured(on)) / "run.json")["plan"]
    assert "chosen" not in plan
    auto = job.with_options(scheme="stanza", fc_workers="auto")
    auto = dataclasses.replace(auto, out=None)
    with pytest.raises(InputError, match=r"--stanza\.fc-workers auto: needs a profile"):
        prepare_shaped(auto, on, shaped.measured(on))
