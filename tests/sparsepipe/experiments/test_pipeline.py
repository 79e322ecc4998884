"""From emulated plans to claims; the emulated results are made up here."""

from pathlib import Path
from typing import Any

import pytest

from sparsepipe.experiments import pipeline, pipeline_figures as figures, pipeline_grid as grid


def results(factor: float, busy: float = 0.95) -> dict[str, list[dict[str, Any]]]:
    """Of the points of the quick level, emulated steps `factor` times as long as predicted."""
    found = {}
    for where, level in grid.EMULATED_POINTS.items():
        if level != "quick":
            continue
        planned = grid.point(*where)
        devices = planned.plan.prediction.devices
        found[grid.case_name(*where)] = [
            {
                "predicted_step_s": planned.plan.prediction.step_s,
                "mean_step_s": planned.plan.prediction.step_s * factor,
                "predicted_compute_s": [device.compute_s for device in devices],
                "compute_s": [device.compute_s * factor for device in devices],
                "utilisation": [busy] * len(devices),
            }
        ]
    return found


def emulated(factor: float, busy: float = 0.95) -> dict[str, Any]:
    given = results(factor, busy)
    claims = [
        *pipeline._of_the_emulation(given),
        *pipeline._gains("emulated", lambda *where: grid.emulated_s(given, *where)),
    ]
    return {claim.id.removeprefix("sparsepipe."): claim for claim in claims}


def test_the_bound_and_the_best_known_plans_are_those_of_the_profiles() -> None:
    claims = list(pipeline._of_the_bound())
    assert len(claims) == 7
    assert {claim.status for claim in claims} == {"pass"}
    equal_shares = {"1 + 1": 1.464, "1 + 3": 0.732, "2 + 2": 0.732, "2 + 6": 0.366, "4 + 4": 0.366}
    bounds = {"1 + 1": 1.024, "1 + 3": 0.591, "2 + 2": 0.512, "2 + 6": 0.295, "4 + 4": 0.256}
    for cluster, bound_s in bounds.items():
        planned = grid.point(cluster, grid.PLAN, grid.FAST)
        assert planned.plan.bound_s == pytest.approx(bound_s, abs=0.001)
        ddp_s = grid.predicted_s(cluster, grid.DDP, grid.FAST)
        # Without messages; the last part of the all-reduce takes some milliseconds.
        assert equal_shares[cluster] - 0.001 < ddp_s < equal_shares[cluster] + 0.007


def test_claims_judge_what_was_emulated() -> None:
    good = emulated(1.05)
    assert good["emulated-agrees-with-predicted.grid.emulated"].status == "pass"
    assert good["over-ddp.1+1-1g.emulated"].ours == pytest.approx(2.29, rel=0.01)
    assert good["over-ddp.2+2-10g.emulated"].status == "pass"
    assert good["virtual-stages-above-bound.2+2.emulated"].status == "pass"
    assert good["emulated-over-predicted.plan-1+1.emulated"].ours == pytest.approx(1.05)
    assert good["utilisation-of-slowest-stage.grid.emulated"].ours == 0.95
    bad = emulated(1.2, busy=0.5)
    assert bad["emulated-agrees-with-predicted.grid.emulated"].status == "off"
    assert bad["utilisation-of-slowest-stage.grid.emulated"].status == "off"
    assert bad["virtual-stages-above-bound.1+1.emulated"].status == "off"


def test_figures_hold_what_was_emulated(tmp_path: Path) -> None:
    given = results(1.02)
    drawn = [figures.agreement(given, tmp_path), *figures.gantts({}, tmp_path)]
    assert all(figure.path.is_file() for figure in drawn)
    rows = (tmp_path / "pipeline-agreement.csv").read_text().splitlines()
    steps = [row for row in rows if row.startswith("Every plan")]
    assert len(steps) == len(given)


def test_quick_cases_are_those_that_speed_ups_are_claimed_of() -> None:
    quick = [case for case in grid.CASES if case.level == "quick"]
    assert [sum(case.nodes == nodes for case in quick) for nodes in (2, 4, 8)] == [8, 8, 2]
    assert {case.name for case in quick if case.trace} == {"2+2 plan 10g", "1+1 virtual stages 80g"}
    assert len({case.name for case in grid.CASES}) == len(grid.CASES)
