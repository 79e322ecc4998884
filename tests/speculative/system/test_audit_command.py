"""`testbed audit` prints what can be pasted into an issue, and its exit code says the verdict."""

from pathlib import Path

import pytest

from launch.__main__ import main

QUICK = ["--total-variation", "0.2", "--vocabularies", "100", "--no-control"]
ONE = """
def verify(target, draft, tokens, generator):
    assert len(target) == 1
    import speculative
    return speculative.verify(target, draft, tokens, seed=generator.initial_seed())[:2]
"""


def test_an_exact_verifier_passes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["audit", "exact", *QUICK])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("**Audit of `speculative.verify, rule exact`**: seed 0, cpu, torch ")
    assert lines[2:4] == ["| check | result | found |", "| --- | --- | --- |"]
    assert lines[-1].startswith("**EXACT, as far as ")


def test_another_ends_with_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["audit", "sigmoid", *QUICK])
    assert stop.value.code == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("**NOT EXACT**: random, ")


def test_a_function_of_a_file_may_take_one_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It draws the same numbers for all sequences, since it looks at the seed alone."""
    (tmp_path / "one.py").write_text(ONE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["audit", "one.py:verify", "--one-by-one", *QUICK])
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert "**Audit of `one.py:verify`**" in out
    assert "| random | WRONG |" in out
