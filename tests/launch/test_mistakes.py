"""A stranger's mistakes (mistakes/cases.toml): each is one helpful line and exit code 2."""

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from launch import records
from launch.__main__ import main

FILES = Path("tests/launch/mistakes")
SUBJECTS: dict[str, list[list[str]]] = tomllib.loads((FILES / "cases.toml").read_text())
CASES = [case for cases in SUBJECTS.values() for case in cases]
FIRST_OF_SUBJECT = [cases[0] for cases in SUBJECTS.values()]
PATIENCE_S = 90


def words(text: str, empty: Path) -> str:
    return text.replace("FILES", str(FILES)).replace("EMPTY", str(empty))


def check(case: list[str], code: object, errors: str, empty: Path) -> None:
    """One line, and it holds what the case says."""
    assert code == 2, errors
    (line,) = errors.splitlines()
    assert line.startswith("error: "), line
    assert all(words(part, empty) in line for part in case[1:]), line


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_mistake_is_one_line_and_exit_2(
    case: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(records, "RUNS", tmp_path / "runs")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(words(case[0], empty)))
    check(case, stop.value.code, capfd.readouterr().err, empty)
    assert list(empty.iterdir()) == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("case", FIRST_OF_SUBJECT, ids=lambda case: case[0])
def test_so_it_is_in_a_process_of_its_own(case: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launch", *shlex.split(words(case[0], tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    check(case, done.returncode, done.stderr, tmp_path)
    assert done.stdout == ""


def test_there_are_enough_of_all_kinds() -> None:
    assert len(CASES) >= 100
    assert len({case[0] for case in CASES}) == len(CASES)
    used = " ".join(case[0] for case in CASES)
    assert all(path.name in used for path in FILES.iterdir() if path.name != "cases.toml")
