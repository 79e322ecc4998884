"""From contests to figure, table and claims; the contests themselves are made up here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparsepipe.bench.contest import Contest, Row
from sparsepipe.experiments import PAPER, engine
from sparsepipe.experiments.engine_figures import cells
from systems import schema

SECONDS = {"native": 1.0, "minkowski": 2.0, "spconv": 1.5, "dense": 80.0}


def rows(contest: Contest, repetitions: int = 2) -> list[Row]:
    def one(name: str) -> Row:
        limited = name == "dense" and contest.memory_limit_bytes is not None
        return Row(
            contest=contest,
            engine=name,
            voxels=1000,
            pass_s=() if limited else (SECONDS[name],) * repetitions,
            map_s=None if name == "dense" else SECONDS[name] / 4,
            peak_bytes=int(SECONDS[name] * 1e6),
            operations=8e10,
            matrix_operations_per_s=1e11,
            failure="does not fit in 8 GB" if limited else None,
        )

    return [one(name) for name in contest.engines]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def run(contest: Contest, repetitions: int) -> list[Row]:
        names.append(contest.name)
        return rows(contest, repetitions)

    monkeypatch.setattr(engine, "run", run)
    return names


@pytest.mark.parametrize("level", ["quick", "full"])
def test_contests_become_claims(measured: list[str], level: str, tmp_path: Path) -> None:
    results = engine.measure(level, tmp_path / "records")
    assert len(measured) == len(set(measured)) == len(results)
    outcome = engine.conclude(results, tmp_path)
    claims = {claim.id: claim for claim in outcome.claims}
    assert len(claims) == len(outcome.claims)
    against_dense = [answer.claims(outcome.claims) for answer in PAPER.statements[0].answers]
    assert [len(answers) for answers in against_dense] == [1, 1, 1]
    fast = claims["sparsepipe.speed-over-minkowski.shapes-0.02-64-threads-1.measured"]
    assert (fast.ours, fast.status, fast.n) == (2.0, "pass", engine.REPETITIONS[level])
    share = claims["sparsepipe.kernel-map-share.shapes-0.02-128-threads-1.measured"]
    assert share.ours == pytest.approx(0.2)
    slow = claims["sparsepipe.share-of-matrix-rate.shapes-0.02-64-threads-1.measured"]
    assert slow.ours == pytest.approx(0.8)
    assert claims["sparsepipe.speed-over-dense.50-cubed.measured"].ours == 80
    assert claims["sparsepipe.memory-over-dense.128-cubed.measured"].ours == 80
    assert "does not fit" in claims["sparsepipe.peak-memory.256-cubed.measured"].what
    assert any("shapes-0.01" in name for name in claims) == (level == "full")
    assert outcome.figures[0].path.is_file()
    assert "| sphere:256 | 1,000 | 64 | 1 | dense | does not fit in 8 GB |" in outcome.notes[0]


def test_an_interrupted_measurement_goes_on(measured: list[str], tmp_path: Path) -> None:
    first = engine.contests("quick")[0]
    kept = [schema.dump(row) for row in rows(first)]
    (tmp_path / f"{first.name}.json").write_text(json.dumps(kept))
    results = engine.measure("quick", tmp_path)
    assert first.name not in measured
    assert len(results[first.name][0]["pass_s"]) == 2


def test_cells_of_a_network_have_no_rate() -> None:
    native, _ = rows(engine.NETWORK)
    assert cells(replace(native, operations=0.0, map_s=None))[1::2] == ("", "")
