"""Distances on small made-up logits, and what is concluded from them."""

from dataclasses import replace
from pathlib import Path

import pytest

from speculative.experiments import PAPER, approximation


def test_distances_become_a_figure_and_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximation, "MADE_UP", replace(approximation.MADE_UP, vocabulary=400))
    monkeypatch.chdir(tmp_path)  # no trained pairs here
    results = approximation.measure("quick", tmp_path / "records" / "approximation")
    (name,) = results
    rows = {(row["method"], row["setting"]): row for row in results[name]}
    assert rows["exact", None]["total_variation"] < 1e-12
    assert rows["sigmoid", 1e4]["acceptance"] > 0.99
    cautious, careless = rows["calibrated", 16.0], rows["calibrated", 1.0]
    assert cautious["total_variation"] < careless["total_variation"] < 0.1
    assert cautious["acceptance"] < careless["acceptance"]
    assert approximation.measure("quick", tmp_path / "records" / "approximation") == results

    outcome = approximation.conclude(results, tmp_path / "figures")
    claims = {c.id: c for c in outcome.claims}
    for statement in PAPER.statements[2:]:
        assert any(answer.claims(outcome.claims) for answer in statement.answers)
    assert claims["speculative.exact-total-variation.normal-logits.measured"].status == "pass"
    assert claims["speculative.sigmoid-total-variation.normal-logits.measured"].status == "off"
    assert outcome.figures[0].path.is_file()
    assert outcome.notes[0].count("\n") == len(results[name]) + 1
