"""What is told of ranks that end; how ranks end each other is in
tests/launch/launchers/test_local.py."""

from pathlib import Path

import pytest

from systems.processes.supervise import HANG_EXIT_CODE, TOLD, how_it_ended, tell, told


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-9, "was killed by SIGKILL"),
        (3, "ended with code 3"),
        (HANG_EXIT_CODE, "ended because the run hung, see above"),
    ],
)
def test_an_end_is_told_in_words(code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert how_it_ended(code) == said
    tell(2, code)
    assert capsys.readouterr().err == f"error: rank 2 {said}\n"


def test_who_asks_for_it_learns_the_first_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "told"
    path.touch()
    assert told(path) is None
    monkeypatch.setenv(TOLD, str(path))
    tell(1, -9)
    tell(0, 1)
    assert told(path) == (1, -9)
    assert capsys.readouterr().err == ""
