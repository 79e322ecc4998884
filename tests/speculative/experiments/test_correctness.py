"""The trials at a small size, and what is concluded from them."""

import json
from pathlib import Path

import pytest

from speculative.experiments import chi_square, correctness

pytest.importorskip("transformers")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (chi_square, correctness):
        monkeypatch.setattr(module, "N", 20_000)
    monkeypatch.setattr(correctness, "PAIRS", (1,))
    monkeypatch.setattr(correctness, "BATCH", 8)
    monkeypatch.setattr(correctness, "GENERATED", {"quick": 40})
    monkeypatch.setattr(correctness, "VOCABULARIES", {"quick": (67,)})


def test_trials_become_claims(small: None, tmp_path: Path) -> None:
    results = correctness.measure("quick", tmp_path)
    assert correctness.measure("quick", tmp_path) == results  # what was written stays
    outcome = correctness.conclude(results, tmp_path)
    claims = {c.id: c for c in outcome.claims}
    assert len(claims) == len(outcome.claims) == 6 + 1 + 5 + 1
    others = [c for c in outcome.claims if "mutants" not in c.id]
    assert [c.id for c in others if c.status != "pass"] == []
    # two of the twelve need the full number of outputs
    assert claims["speculative.mutants-caught.all.measured"].ours >= 9
    assert "| half residual | decisions unlike float64's |" in outcome.notes[1]


def test_a_wrong_verifier_is_off(small: None, tmp_path: Path) -> None:
    results = json.loads(json.dumps(dict(correctness.measure("quick", tmp_path))))
    results["samplers"][0]["p"] = 1e-9
    results["agreement"][0]["unlike"] = 2
    results["mutants"][0]["caught"] = False
    results["batches"][1]["changed"] = 1
    off = [c for c in correctness.conclude(results, tmp_path).claims if c.status != "pass"]
    assert [c.id.split(".")[1] for c in off] == [
        "exact-chi-square-p",
        "mutants-caught",
        "decisions-unlike-reference",
        "tokens-changed-by-batch",
    ]
