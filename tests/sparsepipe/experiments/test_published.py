"""Jobs that others measured, in the report: with data and without."""

from pathlib import Path

import pytest

from sparsepipe.experiments import published
from tests.systems.validation.synthetic import plan, write, write_costs


def test_without_data_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_DATA", str(tmp_path))
    outcome = published.conclude({}, tmp_path / "figures")
    assert (outcome.figures, outcome.claims) == ((), ())
    assert "No measured jobs here" in outcome.notes[0]


def test_plans_are_drawn_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_DATA", str(tmp_path))
    write_costs(tmp_path / "sailor")
    write(tmp_path / "sailor/plans/one.json", plan([[("A", 1)]], real=0.37))
    write(tmp_path / "sailor/plans/two.json", plan([[("A", 1)], [("B", 1)]], real=9.0))
    write(tmp_path / "sailor/plans/bad.json", plan([[("C", 1)]]))
    outcome = published.conclude({}, tmp_path / "figures")
    assert outcome.figures[0].path.is_file()
    found = {claim.case: claim for claim in outcome.claims}
    assert set(found) == {"micro-batch-2+", "one-kind-of-gpu", "mixed-gpus", "all-plans"}
    assert found["mixed-gpus"].status == "off"
    assert "C" in outcome.notes[-1]
