"""The reason of a rank that fails is said, told to torchrun's agent, and kept in the record."""

from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from systems.processes import failures
from systems.processes.supervise import TOLD


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_record", None)
    monkeypatch.delenv(failures.AGENTS_FILE, raising=False)
    monkeypatch.delenv(TOLD, raising=False)


def test_the_reason_is_said_told_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not failures.somebody_tells()
    monkeypatch.setenv(failures.AGENTS_FILE, str(tmp_path / "error.json"))
    assert failures.somebody_tells()
    failures.keep_in(tmp_path)
    failures.tell(1, "no such data\nand where it was looked for")
    failures.keep(1, "what that led to")
    said = capsys.readouterr().err
    assert said == "error: no such data\nand where it was looked for\n"
    own = ProcessFailure(1, 1, exitcode=1, error_file=str(tmp_path / "error.json"))
    assert own.message["message"] == "no such data"  # type: ignore[index]
    assert own.message["extraInfo"]["py_callstack"].endswith("looked for")  # type: ignore[index]
    first, second = failures.read(tmp_path)
    assert (first["rank"], first["reason"]) == (1, "no such data")
    assert first["details"] == "and where it was looked for"
    assert second["reason"] == "what that led to"


def test_a_record_that_is_not_here_is_no_other_failure(tmp_path: Path) -> None:
    failures.keep_in(tmp_path / "of-another-node")
    failures.keep(0, "a reason")
    assert failures.read(tmp_path / "of-another-node") == []
    assert list(tmp_path.iterdir()) == []


def test_half_a_line_hides_neither_what_was_kept_before_nor_what_comes_after(
    tmp_path: Path,
) -> None:
    failures.write(tmp_path, 0, "first")
    with (tmp_path / failures.FILE).open("a") as file:
        file.write('{"rank": 1, "rea')  # the disk was full
    failures.write(tmp_path, 2, "third")
    assert [line["reason"] for line in failures.read(tmp_path)] == ["first", "third"]
