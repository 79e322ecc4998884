"""What the experiments conclude from results: claims that can fail, and figures of every number."""

import json
from pathlib import Path
from typing import Any

import pytest

from stanza.experiments import EXPERIMENTS, PAPER, digits, planner, scale
from systems.figures.claims import Claim
from systems.figures.experiment import Outcome

REPEATS = 3


def fake_run(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A result as `launch.ranks.worker` writes it."""
    table = 0.0 if name == "single" else 1e6
    row = {f"{kind}_{way}": table for kind in ("table", "tcp") for way in ("sent", "received")}
    return {
        "loss": [2.3 / (1 + step / 10) for step in range(100)],
        "test_accuracy": 0.99,
        "bytes_per_step": [row, row],
        **changes,
    }


def concluded(folder: Path, **changes: Any) -> dict[str, Claim]:
    """The digits claims, where Stanza's runs differ from good ones by `changes`."""
    results = {
        case.name: [
            fake_run(case.name, changes if case.name == "stanza" else {}) for _ in range(REPEATS)
        ]
        for case in digits.CASES
    }
    return {claim.id: claim for claim in digits.conclude(results, folder).claims}


def test_good_results_pass_every_claim(tmp_path: Path) -> None:
    claims = concluded(tmp_path)
    assert {claim.status for claim in claims.values()} == {"pass"}
    assert all(claim.n == REPEATS for claim in claims.values())
    for statement in PAPER.statements[1:]:  # the first one is about speed
        assert any(answer.claims(claims.values()) for answer in statement.answers)


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"test_accuracy": 0.5}, "accuracy.digits"),
        ({"test_accuracy": 0.5}, "accuracy-gap.digits"),
        ({"loss": [2.4] * 100}, "loss-gap.stanza"),
    ],
)
def test_a_bad_result_is_off(changes: dict[str, Any], claim: str, tmp_path: Path) -> None:
    claims = concluded(tmp_path, **changes)
    assert claims[f"stanza.{claim}.measured"].status == "off"


def test_the_bytes_that_separation_saves_are_a_claim(tmp_path: Path) -> None:
    quarter = {f"{kind}_{way}": 2.5e5 for kind in ("table", "tcp") for way in ("sent", "received")}
    saved = concluded(tmp_path, bytes_per_step=[quarter])
    for name in ("ps-blocking", "ddp"):
        claim = saved[f"stanza.bytes-of-{name}-over-stanza.digits.measured"]
        assert (claim.ours, claim.status) == (4.0, "pass")


def test_missing_bytes_make_no_claim_and_wrong_ones_fail(tmp_path: Path) -> None:
    row = {f"table_{way}": 1e6 for way in ("sent", "received")}
    uncounted = row | {"tcp_sent": None, "tcp_received": None}
    doubled = row | {"tcp_sent": 2e6, "tcp_received": 1e6}
    name = "stanza.bytes-over-table.stanza.measured"
    assert name not in concluded(tmp_path / "a", bytes_per_step=[uncounted])
    assert concluded(tmp_path / "b", bytes_per_step=[doubled])[name].status == "off"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return planner.conclude({}, tmp_path_factory.mktemp("planner"))


def test_the_planner_claims_every_model_of_the_paper(planned: Outcome) -> None:
    claims = {claim.id: claim for claim in planned.claims}
    for model in ("alexnet", "vgg16", "resnet50", "inception-v3"):
        over_ps = claims[f"stanza.chosen-over-ps-blocking.{model}.simulated"]
        assert over_ps.paper == "1.34x to 13.9x"
        assert claims[f"stanza.auto-over-best-baseline.{model}.simulated"].status == "pass"


def test_the_paper_is_drawn_beside_the_predictions(planned: Outcome) -> None:
    (figure,) = planned.figures
    text = figure.path.with_suffix(".csv").read_text()
    assert ",paper,,1.34," in text
    assert ",paper,,13.9," in text
    assert figure.tier == "simulated"


def test_experiments_are_named_and_cost_something_at_both_levels() -> None:
    assert len({experiment.id for experiment in EXPERIMENTS}) == len(EXPERIMENTS)
    for experiment in EXPERIMENTS:
        assert experiment.repeats["full"] >= experiment.repeats["quick"] >= 1
    json.dumps([case.name for experiment in EXPERIMENTS for case in experiment.cases])


@pytest.fixture(scope="module")
def scaled(few_scales: None, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return scale.conclude({}, tmp_path_factory.mktemp("scale"))


def test_planner_and_simulator_agree_at_these_scales(scaled: Outcome) -> None:
    ratios = [c.ours for c in scaled.claims if ".planner-over-simulator." in c.id]
    assert len(ratios) == 4
    assert all(0.9 <= ratio <= 1.1 for ratio in ratios)


def test_auto_never_loses_to_ddp_in_simulation(scaled: Outcome) -> None:
    least = [c.ours for c in scaled.claims if ".least-chosen-over-ddp." in c.id]
    assert len(least) == 4
    assert min(least) >= 0.98


def test_every_scale_is_drawn_for_every_model(scaled: Outcome) -> None:
    for figure in scaled.figures:
        text = figure.path.with_suffix(".csv").read_text()
        assert all(model in text for model in ("alexnet", "vgg16", "resnet50", "inception-v3"))
