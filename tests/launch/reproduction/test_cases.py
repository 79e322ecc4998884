"""Sweeps: finished points are skipped, equal ones run once, without root nothing is emulated."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from launch.reproduction import cases
from stanza.experiments.simulated import at_rate
from stanza.experiments.targets import AUTO
from stanza.options import Options
from systems.clusters import cluster
from systems.clusters.shape import Shape
from systems.figures.experiment import Case, Experiment, Outcome
from systems.job import Job
from systems.runs.shaped import Measured
from tests import shaped

SLOWER = shaped.shape(4, share=0.4, rate_bits_per_s=1e7)
FASTER = at_rate(cluster.load("ec2-p3-10g"), 25)
VGG = Options(model="vgg16", steps=3)
SHARDED: dict[str, Any] = {"scheme": "ps", "ps_mode": "pipelined", "ps_placement": "colocated"}
CASES = (
    Case(name="ddp 10", options=Options(model="vgg16", steps=3, scheme="ddp"), nodes=10),
    Case(name="f=1 10", options=Options(model="vgg16", steps=3, fc_workers=1), nodes=10),
    Case(name="auto 10", options=VGG, nodes=10),
    Case(name="auto resnet50 10", options=replace(VGG, model="resnet50", **AUTO), nodes=10),
    Case(name="sharded resnet50 10", options=replace(VGG, model="resnet50", **SHARDED), nodes=10),
    Case(name="auto 4", options=VGG, nodes=4),
    Case(name="ddp 10 at 25g", options=replace(VGG, scheme="ddp"), nodes=10, cluster=FASTER),
)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the folders of every emulated world, which is not really run."""
    worlds: list[list[str]] = []

    def run(folders: list[Path]) -> int:
        worlds.append([folder.name for folder in folders])
        for folder in folders:
            (folder / "result.json").write_text(json.dumps({"folder": folder.name}))
        return 0

    monkeypatch.setattr(cases, "run_emulated", run)
    monkeypatch.setattr(cases, "unavailable", lambda: None)
    return worlds


def experiment() -> Experiment:
    return Experiment(
        system="stanza",
        id="test",
        title="A test",
        tier="emulated",
        cluster="ec2-p3-10g",
        cases=CASES,
        repeats={"quick": 1, "full": 1},
        conclude=lambda results, folder: Outcome(figures=(), claims=()),
    )


def test_cases_that_are_one_job_run_once(ran: list[list[str]], tmp_path: Path) -> None:
    results = cases.run_emulated_cases(experiment(), CASES, 1, tmp_path)
    assert ran == [["auto-4-0"], ["ddp-10-0", "f1-10-0", "auto-resnet50-10-0", "ddp-10-at-25g-0"]]
    assert results["sharded resnet50 10"] == results["auto resnet50 10"]
    assert (
        results["auto 10"]
        == results["f=1 10"]
        == [{"folder": "f1-10-0", "record": str(tmp_path / "f1-10-0")}]
    )
    assert set(results) == {case.name for case in CASES}
    # The same scheme at another rate is another job, on the emulated links of the others.
    job = (tmp_path / "ddp-10-at-25g-0" / "job.toml").read_text()
    assert "ec2-p3-10g-at-25g.toml" in job


def test_a_case_takes_part_in_as_many_repetitions_as_it_wants(
    ran: list[list[str]], tmp_path: Path
) -> None:
    once = (CASES[0], replace(CASES[1], repeats=1))
    results = cases.run_emulated_cases(experiment(), once, 3, tmp_path)
    assert ran == [["ddp-10-0", "f1-10-0", "ddp-10-1", "ddp-10-2"]]
    assert {name: len(runs) for name, runs in results.items()} == {"ddp 10": 3, "f=1 10": 1}


def test_a_sweep_goes_on_where_it_stopped(
    ran: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = cases.run_emulated_cases(experiment(), CASES, 1, tmp_path)
    (tmp_path / "f1-10-0" / "result.json").unlink()  # as if interrupted
    ran.clear()
    assert cases.run_emulated_cases(experiment(), CASES, 1, tmp_path) == first
    assert ran == [["f1-10-0"]]
    assert "4 of 7 runs are done already" in capsys.readouterr().out


def test_without_root_there_are_no_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cases, "unavailable", lambda: "not root; run as root")
    assert cases.run_emulated_cases(experiment(), CASES, 1, tmp_path) == {}
    assert "simulated alone: not root; run as root" in capsys.readouterr().out


def test_an_emulation_that_fails_gives_no_results(
    ran: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cases, "run_emulated", lambda folders: 2)
    assert cases.run_emulated_cases(experiment(), CASES, 1, tmp_path) == {}


def test_shaped_cases_share_a_world_and_a_measurement_just_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digits = replace(shaped.DIGITS, fc_workers="auto")
    several = (
        Case(name="auto", options=digits),
        Case(name="ddp", options=replace(digits, scheme="ddp")),
        Case(name="ddp slower", options=replace(digits, scheme="ddp"), cluster=SLOWER.cluster),
    )
    done: list[float | list[str]] = []

    def measure(job: Job, shape: Shape) -> Measured:
        done.append(shape.rates_bits_per_s[0])
        return shaped.measured(shape)

    def run(folders: list[Path]) -> int:
        done.append([folder.name for folder in folders])
        for folder in folders:
            (folder / "result.json").write_text("{}")
        return 0

    monkeypatch.setattr(cases, "measure_shaped", measure)
    monkeypatch.setattr(cases, "run_shaped", run)
    monkeypatch.setattr(cases, "unavailable", lambda: None)
    monkeypatch.setattr("launch.commands.shape.check_available", lambda: None)
    of = replace(experiment(), tier="shaped", cluster="four-100m", world_size=4)
    results = cases.run_shaped_cases(of, several, 2, tmp_path)
    runs = [["auto-0", "ddp-0", "auto-1", "ddp-1"], ["ddp-slower-0", "ddp-slower-1"]]
    assert done == [1e8, runs[0], 1e7, runs[1]]  # each cluster is measured once
    assert [(name, len(each)) for name, each in results.items()] == [(c.name, 2) for c in several]
    run_json = json.loads((tmp_path / "ddp-0" / "run.json").read_text())
    assert run_json["tier"] == "shaped"
    assert run_json["plan"]["chosen"]["step_s"] > 0
    done.clear()
    cases.run_shaped_cases(of, several, 2, tmp_path)
    assert done == []


def test_without_root_nothing_is_shaped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cases, "unavailable", lambda: "not root; run as root")
    assert cases.run_shaped_cases(experiment(), CASES, 1, tmp_path) == {}
    assert "this experiment is left out: not root" in capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 2, 4])
def test_measured_cases_compute_on_one_kind_of_device(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With GPUs for some world sizes and not for others, "auto" would mix them in a figure."""
    devices: dict[str, str] = {}
    planning = SimpleNamespace(
        plans=lambda jobs: [None] * len(jobs), resolved=lambda job, plan: job
    )

    def run(job: Job, folders: list[Path]) -> int:
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / "result.json").write_text("{}")
        return 0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(cases, "system_of", lambda job: SimpleNamespace(planning=planning))
    monkeypatch.setattr(
        cases, "create_record", lambda job, _: devices.update({job.name: job.device})
    )
    monkeypatch.setattr(cases, "run_ranks", run)
    chosen = [Case(name=str(n), options=Options(steps=2), nodes=n) for n in (1, 2, 4)]
    cases.run_measured_cases(experiment(), chosen, 1, tmp_path / "default")
    assert list(devices.values()) == ["cpu"] * 3
    cases.run_measured_cases(experiment(), chosen, 1, tmp_path / "gpu", "cuda")
    assert list(devices.values()) == ["cuda"] * 3
