"""The report says of every number where it comes from, and reproduce keeps earlier results."""

import json
from pathlib import Path

import pytest

from launch.__main__ import main
from launch.report import write_report
from stanza.experiments import EXPERIMENTS
from systems.experiment import Experiment

PLANNER = next(e for e in EXPERIMENTS if e.id == "planner")


def test_the_report_holds_figures_claims_and_tiers(tmp_path: Path) -> None:
    outcome = PLANNER.conclude({}, tmp_path / "figures")
    text = write_report(tmp_path, [(PLANNER, outcome, 1.0)], "quick").read_text()
    assert "![The planner's speed-ups at paper scale](figures/planner-speedup.png)" in text
    assert "Tier simulated" in text
    for claim in outcome.claims:
        assert claim.id in text
        assert f"**{claim.status}**" in text


@pytest.fixture
def only_the_planner(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setattr("launch.reproduce.SYSTEMS", {"stanza": (PLANNER,)})
    return PLANNER


def test_reproduce_writes_claims_and_keeps_an_earlier_run(
    tmp_path: Path, only_the_planner: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "reproduction"
    main(["reproduce", "stanza", "--out", str(out)])
    claims = json.loads((out / "claims.json").read_text())
    required = {"id", "system", "what", "paper", "ours", "unit", "tier", "n", "spread", "status"}
    assert all(required <= claim.keys() for claim in claims)
    assert str(out / "report.md") in capsys.readouterr().out
    (out / "report.md").write_text("mine")
    main(["reproduce", "stanza", "--out", str(out)])
    (kept,) = [path for path in tmp_path.iterdir() if path != out]
    assert (kept / "report.md").read_text() == "mine"
