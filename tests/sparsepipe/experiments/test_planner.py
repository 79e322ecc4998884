"""The planner's experiment, with few random cases."""

from pathlib import Path

import pytest

from sparsepipe.experiments import planner


def test_random_cases_are_counted_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(planner.CASES, "quick", 12)
    monkeypatch.setattr(planner, "_plan_sixteen", lambda: None)
    results = planner.measure("quick", tmp_path)
    assert results[planner.BRUTE][0]["equal"] == 12
    assert 0 < results[planner.BRUTE][0]["possible"] < 12
    again = planner.measure("quick", tmp_path)  # reads what is there
    assert again == results
    claims = {claim.id: claim for claim in planner.conclude(results, tmp_path).claims}
    assert claims["sparsepipe.planner-equals-brute-force.random.simulated"].status == "pass"
    assert claims["sparsepipe.planning-time.8-devices.measured"].ours > 0


def test_a_worse_plan_is_counted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "brute_force", lambda case: 1e-3)
    found = planner.against_brute_force(12)
    assert found["equal"] < found["cases"]
    assert found["largest_difference"] > 1
