"""From results of training to claims; the results are made up here."""

from pathlib import Path
from typing import Any

import pytest

from sparsepipe.experiments import training


def result(accuracy: float, digest: int, steps: int = 60) -> dict[str, Any]:
    return {
        "loss": [1 / (step + 1) for step in range(steps)],
        "step_s": {"median": 0.1},
        "test_accuracy": accuracy,
        "train_s": 200.0,
        "digest": digest,
    }


def results(last_digest: int) -> dict[str, list[dict[str, Any]]]:
    return {
        "shapes": [result(0.96, 1)],
        "the same": [result(0.1, 2)],
        "the same again": [result(0.1, last_digest)],
        "meshes": [result(0.85, 4)],
    }


def test_claims_judge_accuracy_time_and_repetition(tmp_path: Path) -> None:
    outcome = training.conclude(results(2), tmp_path)
    claims = {claim.id: claim.status for claim in outcome.claims}
    assert claims == {
        "sparsepipe.accuracy.shapes.measured": "pass",
        "sparsepipe.accuracy.meshes.measured": "near",
        "sparsepipe.training-time.shapes.measured": "pass",
        "sparsepipe.same-parameters-twice.shapes.measured": "pass",
    }
    assert outcome.figures[0].path.is_file()
    other = training.conclude(results(3), tmp_path).claims[-1]
    assert other.status == "off"


def test_meshes_need_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESTBED_DATA", str(tmp_path))
    assert [case.name for case in training.cases()] == ["shapes", *training.TWICE]
    (tmp_path / "meshes").mkdir()
    meshes = training.cases()[-1]
    assert meshes.options.data == f"meshes:{tmp_path}/meshes"
    monkeypatch.delenv("TESTBED_DATA")
    assert len(training.cases()) == 3
