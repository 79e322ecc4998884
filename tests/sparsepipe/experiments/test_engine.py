"""From contests to figure, table and claims; the contests themselves are made up here."""

import json
from pathlib import Path

import pytest

from sparsepipe.bench.contest import Contest, Row
from sparsepipe.experiments import PAPER, engine
from systems import schema

SECONDS = {"native": 1.0, "minkowski": 2.0, "spconv": 1.5, "dense": 80.0, "gemm": 0.8}


def rows(contest: Contest, repetitions: int = 2) -> list[Row]:
    def one(name: str, part: str, seconds: float) -> Row:
        limited = name == "dense" and contest.memory_limit_bytes is not None
        taken = () if limited else (seconds,) * repetitions
        return Row(
            contest=contest,
            engine=name,
            part=part,
            voxels=1000,
            pairs=9000,
            wall_s=taken,
            processor_s=taken,
            load=1.0,
            peak_bytes=int(seconds * 1e6),
            failure="does not fit in 8 GB" if limited else None,
        )

    steps = [one(name, "train", SECONDS[name]) for name in contest.engines]
    maps = [one(name, engine.MAP, SECONDS[name] / 4) for name in engine.SPARSE]
    return [*steps, *(maps if "maps" in contest.passes else [])]


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
    assert "| shapes:0.02x4 | 1,000 | 64 channels | train | native |" in outcome.notes[0]
    assert "- dense: does not fit in 8 GB" in outcome.notes[0]


def test_an_interrupted_measurement_goes_on(measured: list[str], tmp_path: Path) -> None:
    first = engine.contests("quick")[0]
    kept = [schema.dump(row) for row in rows(first)]
    (tmp_path / f"{first.name}.json").write_text(json.dumps(kept))
    results = engine.measure("quick", tmp_path)
    assert first.name not in measured
    assert len(results[first.name][0]["wall_s"]) == 2
