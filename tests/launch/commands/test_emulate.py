"""Emulated runs as users start them: the record, its bytes and times, and bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.__main__ import main
from launch.commands.emulate import EmulatedJob, choose_emulation, prepare_emulated
from stanza.options import Options
from stanza.system import SYSTEM as STANZA
from stanza.system.planning import plan_stanza_job
from systems.clusters.sized import link_rates_of
from systems.profiles.emulation import Emulation
from systems.schema import InputError
from tests.emulation import needs_emulation
from tests.kills_emulated import How, disturb

BELIEVING = """
import torch
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
"""
"""A Python that begins with this believes that there is a GPU. Ranks that took it would fail."""
EMULATE = [sys.executable, "-m", "launch", "emulate"]
SMALL = ["--cluster", "ec2-p3-10g", "--world-size", "4", "--stanza.model", "alexnet"]
SHORT = ["--stanza.steps", "3", "--stanza.warm-up-steps", "1", "--scale", "100", "--dilate", "1"]
PATIENCE_S = 90


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emulated") / "record"
    flags = [*SMALL, *SHORT, "--stanza.fc-workers", "1", "--stanza.micro-batches", "2"]
    (folder.parent / "sitecustomize.py").write_text(BELIEVING)
    path = os.pathsep.join([str(folder.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*EMULATE, *flags, "--out", str(folder)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " on cpu, torch transport" in done.stdout
    assert "tier emulated (scale 100, dilate 1, undone below)" in done.stdout
    assert "waits of alexnet on V100" in done.stdout
    assert "(simulated: " in done.stdout
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@needs_emulation
@pytest.mark.distributed
def test_the_record_says_how_its_numbers_were_obtained(record: Path) -> None:
    result, run = read(record / "result.json"), read(record / "run.json")
    assert result["tier"] == run["tier"] == "emulated"
    assert run["again"].endswith("job.toml --scale 100.0 --dilate 1.0")
    assert result["emulation"] == {"scale": 100.0, "dilate": 1.0}
    assert len(result["calibration"]["send_receive"]) == 4
    assert result["calibration"]["rate_bits_per_s"] == [1e8] * 4
    assert result["simulated_step_s"] > 0
    assert "test_accuracy" not in result  # zeros were trained
    assert "loss" not in result


@needs_emulation
@pytest.mark.distributed
def test_a_step_lasts_at_least_as_long_as_its_computation(record: Path) -> None:
    # 77 ms forward and backward on a CONV worker, by the profile.
    assert read(record / "result.json")["step_s"]["low"] > 0.077


@needs_emulation
@pytest.mark.distributed
def test_the_bytes_are_those_of_the_real_model(record: Path) -> None:
    rows = read(record / "result.json")["bytes_per_step"]
    for row in rows:  # sizes that a hundredth part of rounds, and gloo's own headers
        assert row["tcp_received"] == pytest.approx(row["table_received"], rel=0.05)


@needs_emulation
@pytest.mark.distributed
@pytest.mark.parametrize(("kind", "how"), [("stanza", "SIGINT"), ("sparsepipe", "rank")])
def test_a_run_that_is_ended_leaves_nothing(kind: str, how: How, tmp_path: Path) -> None:
    """Other ways and moments: `python -m tests.kills_emulated 8`."""
    assert disturb(kind, tmp_path / "record", how, after_step=0, after_s=0) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--cluster", "local"], "--cluster local: the rate of its links is not known"),
        (["--stanza.model", "digits-cnn"], "no profile says how long its layers wait"),
        (["--scale", "0"], "--scale 0: give more than 0"),
        (["--world-size", "1"], "--world-size 1: a single node has no link to emulate"),
        (["--transport", "mpi", "--launcher", "mpirun"], "emulated ranks are started here"),
        (["--stanza.model", "alexnet", "--profile", "vgg16"], "give a profile of that model"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["emulate", "--cluster", "ec2-p3-10g", *flags, "--out", str(tmp_path / "record")])
    if os.geteuid() != 0:
        said = "not root"
    text = capsys.readouterr().err
    assert stop.value.code == 2, text
    assert text.startswith("error: ")
    assert len(text.splitlines()) == 1
    assert said in text
    assert not (tmp_path / "record" / "result.json").exists()


def test_what_the_user_leaves_open_is_chosen(tmp_path: Path) -> None:
    options = Options(model="vgg16")
    job = STANZA.command_job(
        EmulatedJob, options, cluster="ec2-p3-10g", world_size=10, out=str(tmp_path / "r")
    )
    run = read(prepare_emulated(job) / "run.json")
    step_s = run["plan"]["chosen"]["step_s"] * run["emulation"]["dilate"]
    assert step_s == pytest.approx(0.7)
    rates = link_rates_of("ec2-p3-10g", 10, Emulation(**run["emulation"]))
    assert rates == (0.25e9,) * 10


def test_many_messages_get_more_time(tmp_path: Path) -> None:
    options = Options(model="vgg16", scheme="ps", ps_mode="pipelined", ps_placement="colocated")
    job = STANZA.command_job(
        EmulatedJob, options, cluster="ec2-p3-10g", world_size=4, out=str(tmp_path / "r")
    )
    run = read(prepare_emulated(job) / "run.json")
    assert run["plan"]["chosen"]["step_s"] * run["emulation"]["dilate"] == pytest.approx(1.4)


def test_a_slow_cluster_is_not_scaled_up() -> None:
    options = Options(model="alexnet", fc_workers=1)
    job = STANZA.command_job(EmulatedJob, options, cluster="ec2-p3-10g", world_size=3, dilate=400.0)
    assert STANZA.emulating is not None
    plan = plan_stanza_job(job, may_measure=False)
    found = choose_emulation(job, plan, STANZA.emulating)
    assert found == Emulation(scale=1.0, dilate=400.0)


def test_links_of_unknown_rate_cannot_be_emulated() -> None:
    with pytest.raises(InputError, match="rate of its links is not known"):
        link_rates_of("local", 4, Emulation())
