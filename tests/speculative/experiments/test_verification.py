"""From rows to figures and claims; the rows are made up here."""

from pathlib import Path

import pytest

from speculative import bench
from speculative.bench import Case, Row
from speculative.experiments import PAPER, verification
from speculative.experiments.timed import COPY
from systems.measure import Spread

SECONDS = {
    "transformers": 30.0,
    "two softmaxes": 25.0,
    "exact": 5.0,
    "sigmoid": 1.0,
    "calibrated": 2.0,
}


def rows(case: Case, repetitions: int) -> list[Row]:
    def one(method: str) -> Row:
        seconds = SECONDS[method] * case.vocabulary * 1e-9
        return Row(
            case=case,
            method=method,
            call_s=Spread(median=seconds, low=seconds, high=seconds, n=repetitions),
            acceptance=0.7,
            floor_bytes=case.floor_bytes(method),
        )

    return [one(method) for method in bench.METHODS]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    seen: list[Case] = []

    def measure(case: Case, repetitions: int) -> list[Row]:
        seen.append(case)
        return rows(case, repetitions)

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "copy_bandwidth", lambda device, threads: 2e10)
    return seen


@pytest.mark.parametrize("level", ["quick", "full"])
def test_rows_become_claims(measured: list[Case], level: str, tmp_path: Path) -> None:
    results = verification.measure(level, tmp_path / "records")
    assert len(measured) == len(set(results) - {COPY}) > 0
    outcome = verification.conclude(results, tmp_path / "figures")
    claims = {c.id: c for c in outcome.claims}
    assert len(claims) == len(outcome.claims)
    for statement in PAPER.statements[:2]:
        assert any(answer.claims(outcome.claims) for answer in statement.answers)
    exact = claims["speculative.exact-over-transformers.v-128256-gamma-8.measured"]
    assert (exact.ours, exact.status) == (pytest.approx(6.0), "pass")
    sigmoid = claims["speculative.sigmoid-over-transformers.v-128256-gamma-1.measured"]
    assert (sigmoid.ours, sigmoid.status) == (pytest.approx(30.0), "pass")
    both = claims["speculative.calibrated-over-exact.v-128256-gamma-8.measured"]
    assert both.ours == pytest.approx(2.5)
    saved = claims["speculative.exact-less-time.grid.measured"]
    assert saved.ours == pytest.approx(100 * (1 - 5 / 30))
    assert all(figure.path.is_file() for figure in outcome.figures)
    drawn = outcome.figures[0].path.with_suffix(".csv").read_text()
    assert "exact verification (measured),paper,,13," in drawn
    assert "sigmoid verification (measured),paper,,94," in drawn
    assert outcome.notes[0].count("\n") == len(results)


def test_a_regression_at_one_point_is_off(measured: list[Case], tmp_path: Path) -> None:
    results = dict(verification.measure("quick", tmp_path))
    slow = [dict(row) for row in results["v-51865-gamma-4"]]
    slow[2]["call_s"] = {**slow[2]["call_s"], "median": 1.0}
    results["v-51865-gamma-4"] = slow
    outcome = verification.conclude(results, tmp_path / "figures")
    (worst,) = [c for c in outcome.claims if "exact-over-transformers.slowest" in c.id]
    assert worst.status == "off"
    assert worst.ours < 0.01


def test_an_interrupted_measurement_goes_on(measured: list[Case], tmp_path: Path) -> None:
    first = verification.measure("quick", tmp_path)
    done = len(measured)
    (tmp_path / "v-32000-gamma-4.json").unlink()
    assert verification.measure("quick", tmp_path) == first
    assert len(measured) == done + 1
