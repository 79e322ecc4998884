"""From evaluations to figures and claims; the evaluations are made up here, nothing is trained."""

from pathlib import Path
from typing import Any

import pytest

from speculative import ngrams
from speculative.experiments import pairs, quality
from speculative.options import Options

ERRORS = {"none": 0.10, "exact": 0.11, "calibrated": 0.105, "sigmoid": 0.30}
ACCEPTED = {"none": None, "exact": 0.7, "calibrated": 0.68, "sigmoid": 1.0}


def evaluated(options: Options, *, seed: int) -> dict[str, Any]:
    value = ERRORS[options.method] + seed * 1e-3
    score = {"value": value, "low": value - 0.02, "high": value + 0.02}
    phases = {f"{phase}_s": 0.25 for phase in ("draft", "target", "verify", "rest")}
    scored = {"word_error_rate" if options.task == "transcribe" else "rouge_1": score}
    return {
        **scored,
        **phases,
        "acceptance_rate": ACCEPTED[options.method],
        "tokens_per_target_step": 2.0,
        "tokens_per_s": 800.0 if options.method == "none" else 500.0,
        "new_tokens": 500,
        "samples": options.samples,
        "target_parameters": 300_000,
        "draft_parameters": None if options.method == "none" else 30_000,
    }


@pytest.fixture
def decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    seen: list[Options] = []

    def evaluate(options: Options, *, seed: int) -> dict[str, Any]:
        seen.append(options)
        return evaluated(options, seed=seed)

    for role in ("target", "draft"):
        for task in ("transcribe", "summarize"):
            (tmp_path / "runs/pairs" / task / role).mkdir(parents=True)
            (tmp_path / "runs/pairs" / task / role / "config.json").touch()
    (tmp_path / "data/speech/recordings").mkdir(parents=True)
    monkeypatch.setenv("TESTBED_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quality, "evaluate", evaluate)
    monkeypatch.setattr(ngrams, "installed", lambda: False)  # no words to pronounce
    return seen


@pytest.mark.parametrize("level", ["quick", "full"])
def test_evaluations_become_claims(decoded: list[Options], level: str, tmp_path: Path) -> None:
    results = quality.measure(level, tmp_path / "records" / "quality")
    assert len(decoded) == 2 * len(quality.RUNS) * quality.SEEDS[level]
    assert all(Path(options.target_path).is_dir() for options in decoded)
    outcome = quality.conclude(results, tmp_path / "figures")
    claims = {c.id: c for c in outcome.claims}
    assert len(claims) == len(outcome.claims)
    exact = claims["speculative.exact-word-error-rate-apart.transcribe.measured"]
    assert (exact.ours, exact.status) == (pytest.approx(0.01 / (0.02 * 2**0.5)), "pass")
    sigmoid = claims["speculative.sigmoid-word-error-rate-lost.transcribe.measured"]
    assert sigmoid.status == "off"
    assert sigmoid.ours == pytest.approx(2.0, rel=0.05)
    better = claims["speculative.sigmoid-rouge-1-lost.summarize.measured"]
    assert better.ours < 0  # more ROUGE is better
    assert claims["speculative.calibrated-acceptance-apart.transcribe.measured"].status == "pass"
    slower = claims["speculative.exact-tokens-per-s-over-target-alone.transcribe.measured"]
    assert (slower.ours, slower.status) == (pytest.approx(0.625), "off")
    assert "transcribe: exact speculation is slower than the target" in outcome.figures[1].caption
    assert all(figure.path.is_file() for figure in outcome.figures)
    assert "a draft of 30,000, " in outcome.notes[1]
    assert "| sigmoid 1e+04 | 0.3000 |" in outcome.notes[1]

    before = len(decoded)
    assert quality.measure(level, tmp_path / "records" / "quality") == results
    assert len(decoded) == before  # what was written stays


def test_pairs_are_trained_in_the_reproduction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, str]] = []

    def train(task: str, folder: Path, *, size: str) -> list[Any]:
        calls.append((task, size))
        for role in ("target", "draft"):
            (folder / role).mkdir(parents=True)
            (folder / role / "config.json").touch()
        return []

    monkeypatch.setattr(ngrams, "installed", lambda: False)
    monkeypatch.delenv("TESTBED_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pairs, "train_pair", train)
    assert set(pairs.obtain("quick", tmp_path / "records")) == {"summarize"}
    said = capsys.readouterr().out
    assert "transcribe: left out; set TESTBED_DATA" in said
    assert "pronounce: left out; pip install 'systems-testbed[ngram]'" in said
    (tmp_path / "data/speech/recordings").mkdir(parents=True)
    monkeypatch.setenv("TESTBED_DATA", str(tmp_path / "data"))
    found = pairs.obtain("quick", tmp_path / "records")
    assert found == pairs.trained("quick", tmp_path / "records")
    assert calls == [("summarize", "tiny"), ("transcribe", "tiny")]  # each once
    assert pairs.options("summarize", found["summarize"], "quick").data == "stdlib"
    assert pairs.options("summarize", pairs.HOME / "summarize", "quick").data is None
    pairs.obtain("full", tmp_path / "records")
    assert set(calls[2:]) == {("summarize", "small"), ("transcribe", "small")}


def test_nothing_decoded_is_said(tmp_path: Path) -> None:
    outcome = quality.conclude({}, tmp_path / "figures")
    assert (outcome.figures, outcome.claims) == ((), ())
    assert "TESTBED_DATA" in outcome.notes[0]
