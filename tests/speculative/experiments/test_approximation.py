"""Distances on small made-up logits, and what is concluded from them."""

from dataclasses import replace
from pathlib import Path

import pytest

from speculative import ngrams
from speculative.experiments import PAPER, approximation


def test_distances_become_a_figure_and_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approximation, "MADE_UP", replace(approximation.MADE_UP, vocabulary=400))
    monkeypatch.setattr(ngrams, "installed", lambda: False)
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


@pytest.mark.slow
@pytest.mark.parametrize(("order", "overlap"), [(2, 0.8), (1, 0.4)])
def test_on_words_exact_accepts_the_overlap_and_the_sigmoid_everything(
    order: int, overlap: float
) -> None:
    pytest.importorskip("pocketsphinx", reason="pip install 'systems-testbed[ngram]'")
    seen, unseen = approximation._of_words(order)
    rows = list(approximation._distances(seen[:1], unseen, 1.0, ()))
    by = {(row["method"], row["setting"]): row for row in rows}
    assert by["exact", None]["acceptance"] == pytest.approx(overlap, abs=0.06)
    assert by["sigmoid", 1e4]["acceptance"] > 0.99
    assert by["sigmoid", 1e4]["total_variation"] > 0.15
    ids = {c.id for c in approximation._claims("words", rows)}
    assert ids == {f"speculative.{m}-total-variation.words.measured" for m in ("exact", "sigmoid")}
