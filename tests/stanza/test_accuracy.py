"""The time-to-accuracy experiment, on results that were written by hand; nothing is trained."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from stanza.experiments import accuracy, box
from stanza.experiments.accuracy_curves import Trained, case_name, crossing, end_name
from stanza.options import Options
from systems.data import fashion_mnist, mnist_5k
from systems.figures.experiment import Case, Outcome

ALEXNET = accuracy.SETTINGS[0]
PACE_S = {"stanza": 0.03, "micro-batches": 0.025, "auto": 0.02, "ddp": 0.06}
"""The step times of the schemes; that of the others is 0.4."""


def run(folder: Path, step_s: float, steps: int, **more: Any) -> dict[str, Any]:
    """A result, with its record."""
    folder.mkdir(parents=True)
    resources = {"compute": 0.02, "network": 0.06}
    plan = {"predictions": [{"scheme": "ddp", "resources": resources}]}
    (folder / "run.json").write_text(json.dumps({"plan": plan}))
    return {
        "record": str(folder),
        "samples_per_step": 96,
        "samples_per_s": 96 / step_s,
        "predicted_step_s": step_s * 1.05,
        "loss": [2.0 - 0.1 * i for i in range(min(steps, 10))],
        "calibration": {"rate_bits_per_s": [200e6] * 4},
        "host_busy": [],
        **more,
    }


@pytest.fixture
def results(tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    """Short runs of every scheme with three seeds in the first setting, and one to the end."""
    made: dict[str, list[dict[str, Any]]] = {}
    for scheme in accuracy.SCHEMES:
        step_s, name = PACE_S.get(scheme, 0.4), case_name(ALEXNET, scheme, 4)
        made[name] = [run(tmp_path / f"{scheme}-{seed}", step_s, 10) for seed in range(3)]
    tests = [
        {"steps": steps, "trained_s": steps * 0.02, "test_accuracy": found}
        for steps, found in ((100, 0.7), (600, 0.86), (800, 0.9))
    ]
    end = run(tmp_path / "end", 0.02, 800, tests=tests, test_accuracy=0.9)
    made[end_name(ALEXNET, "auto", 4)] = [end]
    return made


def concluded(results: dict[str, list[dict[str, Any]]], folder: Path) -> Outcome:
    return accuracy.conclude(results, folder / "figures")


def test_the_crossing_lies_on_the_line_between_two_tests() -> None:
    assert crossing([100, 600, 800], [0.7, 0.86, 0.9], 0.88) == pytest.approx(700)
    assert crossing([100, 600], [0.9, 0.91], 0.88) == 100
    assert crossing([100, 600], [0.7, 0.86], 0.88) is None


def test_a_slow_scheme_takes_as_many_steps_as_the_one_that_ran_to_the_end(
    results: dict[str, list[dict[str, Any]]],
) -> None:
    trained = Trained(results, accuracy.SETTINGS, tuple(accuracy.SCHEMES), 0.88, 800)
    row = trained.points["alexnet-like", 4]
    assert row["auto"].seconds_to(0.88) == pytest.approx([14.0] * 3)
    assert row["ps-blocking"].seconds_to(0.88) == pytest.approx([700 * 0.4] * 3)
    assert row["ddp"].curve()[0] == pytest.approx([6.0, 36.0, 48.0])
    assert row["ddp"].seconds_to(0.95) == []


def test_claims_are_ratios_of_the_times(
    results: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    outcome = concluded(results, tmp_path)
    found = {c.id: c for c in outcome.claims}
    blocking = found["stanza.sooner-chosen-over-ps-blocking.alexnet-like-4.shaped"]
    assert (blocking.ours, blocking.n, blocking.status) == (pytest.approx(20), 3, "pass")
    assert found["stanza.sooner-chosen-over-ddp.alexnet-like-4.shaped"].ours == pytest.approx(3)
    published = found["stanza.sooner-as-published-over-ps-blocking.alexnet-like-4.shaped"]
    assert published.ours == pytest.approx(700 * 0.4 / (700 * 0.03))
    assert found["stanza.loss-gap.grid.shaped"].ours == 0
    assert found["stanza.predicted-agrees-with-measured.grid.shaped"].ours == 1
    assert found["stanza.accuracy.alexnet-like-4.shaped"].ours == 0.9


def test_a_short_run_that_learns_something_else_is_seen(
    results: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    results[case_name(ALEXNET, "ddp", 4)][1]["loss"][5] += 0.01
    gap = next(c for c in concluded(results, tmp_path).claims if "loss-gap" in c.id)
    assert gap.status == "off"


def test_accuracies_of_schemes_that_ran_to_the_end_are_compared(
    results: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    ours = results[end_name(ALEXNET, "auto", 4)]
    results[end_name(ALEXNET, "ddp", 4)] = [{**one, "test_accuracy": 0.893} for one in ours]
    apart = next(c for c in concluded(results, tmp_path).claims if "accuracy-apart" in c.id)
    assert (apart.ours, apart.status) == (pytest.approx(0.007), "off")


def test_where_nobody_ran_to_the_end_step_times_are_compared(
    results: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    other = accuracy.SETTINGS[1]
    for scheme in ("auto", *accuracy.QUICK_SCHEMES[1:]):
        step_s = PACE_S.get(scheme, 0.4)
        results[case_name(other, scheme, 4)] = [run(tmp_path / "vgg" / scheme, step_s, 10)]
    outcome = concluded(results, tmp_path)
    over = next(c for c in outcome.claims if c.id.endswith("ddp.vgg16-like-4.shaped"))
    assert (over.ours, over.n) == (pytest.approx(3), 1)
    assert "reaches the same number of steps" in over.what


def test_the_figure_tells_measured_from_continued_and_predicted(
    results: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    (figure,) = concluded(results, tmp_path).figures
    with figure.path.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    kinds = {row["series"] for row in rows if "test accuracy" in row["unit"]}
    assert {"auto, measured", "ddp, continued", "ddp, predicted"} <= kinds
    assert "auto, continued" not in kinds


def test_without_a_cluster_nothing_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accuracy, "unavailable", lambda: "no root")
    assert accuracy.prepare("quick", tmp_path) == ()
    assert "time to accuracy is left out" in capsys.readouterr().out
    outcome = accuracy.conclude({}, tmp_path)
    assert (outcome.figures, outcome.claims) == ((), ())
    assert "no root" in outcome.notes[0]


def prepared(level: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Case, ...]:
    """The cases where a step of every network takes 50 ms."""
    monkeypatch.setattr(accuracy, "unavailable", lambda: None)
    monkeypatch.setattr(box, "steps_s", lambda networks, *_: dict.fromkeys(networks, 0.05))
    return accuracy.prepare(level, folder)


def test_rates_give_the_papers_ratio_of_computing_to_communicating(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """AlexNet computes 85 ms for 256 samples on a V100, and 244 MB at 10 Gb/s take 196 ms."""
    cases = prepared("quick", tmp_path, monkeypatch)
    rates = {case.cluster.slowest_link.bandwidth_bits_per_s for case in cases if case.cluster}
    wire_s = 296_218 * 4 * 8 / min(rate for rate in rates if rate is not None)
    assert 0.05 / wire_s == pytest.approx(0.0853 / 0.1955, rel=0.01)
    assert "alexnet on ec2-p3-10g: a step of 256 samples computes 85 ms" in capsys.readouterr().out


def test_steps_are_timed_while_all_ranks_compute() -> None:
    networks = {name: Options(model=name) for name in ("alexnet-28", "resnet-28")}
    found = box.steps_s(networks, 2, 4, lasting_s=0.05)
    assert found.keys() == networks.keys()
    assert all(0 < step_s < 10 for step_s in found.values())


def test_quick_runs_few_to_the_end_and_full_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = prepared("quick", tmp_path / "quick", monkeypatch)
    ends = [case for case in quick if case.name.endswith("to the end")]
    assert [case.name for case in ends] == ["alexnet-like auto 4 to the end"]
    assert {case.options.test_every for case in quick} == {0, accuracy.TEST_EVERY}
    first = [case for case in quick if case.name.startswith("alexnet-like")]
    assert len(first) == len(accuracy.SCHEMES) + 1
    full = prepared("full", tmp_path / "full", monkeypatch)
    assert len(full) == len(accuracy.SETTINGS) * len(accuracy.SCHEMES) * 2
    assert {case.options.steps for case in full} == {accuracy.STEPS}


def test_other_data_are_taken_and_said_where_fashion_mnist_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fashion_mnist, "folder", lambda: None)
    monkeypatch.setattr(mnist_5k, "file", lambda: None)
    cases = prepared("quick", tmp_path, monkeypatch)
    assert "Fashion-MNIST is not here; the networks learn digits" in capsys.readouterr().out
    assert {case.options.data for case in cases} == {"digits"}
