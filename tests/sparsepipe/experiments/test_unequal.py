"""The experiment with unequal devices, on results that were written by hand; nothing is trained."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsepipe.data.load import load
from sparsepipe.experiments import kept_shapes, unequal, unequal_grid as grid
from sparsepipe.experiments.pipeline_grid import DDP, EQUAL_SPLIT, PLAN
from systems.figures.claims import Claim

PACE_S = {PLAN: 0.25, EQUAL_SPLIT: 0.4, DDP: 0.5}
"""The step times of the schemes; that of the others is 1."""
LOSSES = [2.5] * 20 + [1.7] * 20
"""The mean of ten is 1.8 or less once there are nine of the low ones."""


def run(step_s: float, **more: Any) -> dict[str, Any]:
    return {
        "samples_per_s": grid.OPTIONS.batch_size / step_s,
        "predicted_step_s": 0.25,
        "utilisation": [0.9, 0.5, 0.5, 0.5],
        "host_busy": [],
        "loss": LOSSES,
        **more,
    }


@pytest.fixture
def results() -> dict[str, list[dict[str, Any]]]:
    """Two seeds of every scheme on the first cluster; one of them is a tenth slower."""
    paces = {scheme: PACE_S.get(scheme, 1.0) for scheme in grid.SCHEMES}
    return {
        grid.case_name("3:1:1:1", 0.3, scheme): [run(pace_s), run(1.1 * pace_s)]
        for scheme, pace_s in paces.items()
    }


def claims(results: dict[str, list[dict[str, Any]]], folder: Path) -> dict[str, Claim]:
    return {claim.id: claim for claim in unequal.conclude(results, folder).claims}


def test_the_plan_is_judged_against_every_baseline_and_its_prediction(
    results: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    found = claims(results, tmp_path)
    split = found["sparsepipe.over-equal-split.3-1-1-1-0.3g.shaped"]
    assert (split.ours, split.n, split.status) == (pytest.approx(1.6), 2, "pass")
    assert found["sparsepipe.over-ddp.3-1-1-1-0.3g.shaped"].ours == pytest.approx(2)
    assert len([id for id in found if ".over-" in id]) == len(grid.SCHEMES) - 1
    ratio = found["sparsepipe.measured-over-predicted.3-1-1-1-0.3g.shaped"]
    assert (ratio.ours, ratio.status) == (pytest.approx(1.05), "pass")
    agreeing = found["sparsepipe.predicted-agrees-with-measured.grid.shaped"]
    assert (agreeing.ours, agreeing.status) == (1 / 5, "off")  # baselines are predicted wrongly


def test_the_time_to_a_loss_is_steps_at_a_runs_own_pace(
    results: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    never = grid.case_name("3:1:1:1", 0.3, EQUAL_SPLIT)
    results[never] = [run(0.4, loss=[2.5] * 40), run(0.4)]
    results[grid.case_name("3:1", 0.3, PLAN)] = [run(0.25)]
    rows = grid.Trained(results).rows
    row = rows["3:1:1:1", 0.3]
    assert row[PLAN].seconds_to_loss() == [pytest.approx(29 * 0.25), pytest.approx(29 * 0.275)]
    assert row[EQUAL_SPLIT].seconds_to_loss() == []  # one of its seeds never gets there
    assert rows["3:1", 0.3][PLAN].seconds_to_loss() == []  # too few steps to learn anything
    found = claims(results, tmp_path)
    assert found["sparsepipe.sooner-than-ddp.3-1-1-1-0.3g.shaped"].ours == pytest.approx(2)
    assert "sparsepipe.sooner-than-equal-split.3-1-1-1-0.3g.shaped" not in found


def test_the_figure_and_the_table_show_every_point(
    results: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    results[grid.case_name("3:1:1:1", 0.3, PLAN)][1]["host_busy"] = ["somebody compiled"]
    outcome = unequal.conclude(results, tmp_path)
    (figure,) = outcome.figures
    assert figure.path.is_file()
    rows = list(csv.DictReader(figure.path.with_suffix(".csv").open()))
    assert {row["series"] for row in rows} >= set(grid.SCHEMES)
    points, marked = outcome.notes
    assert all(scheme in points for scheme in grid.SCHEMES)
    assert "90% 50% 50% 50%" in points
    assert marked.startswith("1 of 10 runs were marked")
    assert len(outcome.comparisons) == len(grid.SCHEMES)


def test_where_nothing_was_run_it_is_said(tmp_path: Path) -> None:
    outcome = unequal.conclude({}, tmp_path)
    assert not outcome.figures
    assert "Nothing was trained" in outcome.notes[0]


def test_every_point_is_a_case_and_shares_leave_something_to_the_kernel() -> None:
    assert len(grid.CASES) == len(grid.BOXES) * len(grid.RATES) * len(grid.SCHEMES)
    assert len({case.name for case in grid.CASES}) == len(grid.CASES)
    assert all(sum(shares) < 2 for shares in grid.BOXES.values())


def test_the_clouds_are_made_once_and_kept() -> None:
    train, test, names = kept_shapes.clouds(seed=3, points=64)
    shapes = load("shapes", points=64, seed=3)
    assert (len(train), len(test), len(names)) == (kept_shapes.TRAIN, kept_shapes.TEST, 12)
    assert np.array_equal(train[5].points, shapes.train.cloud(5).points)
    assert np.array_equal(test[5].points, shapes.test.cloud(5).points)
    assert {cloud.label for cloud in train} == set(range(12))
