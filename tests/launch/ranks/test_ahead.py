"""A launcher imports what the ranks of its jobs need before it forks them, and refuses nothing."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from launch import installed
from launch.job import JOBS, load_job, save_job
from launch.ranks import ahead

DIGITS = str(JOBS / "stanza-digits.toml")


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules that were asked for."""
    names: list[str] = []
    monkeypatch.setattr("systems.dynamo.postpone", lambda: None)  # this process compiles
    monkeypatch.setattr(ahead, "import_module", names.append)
    return names


def test_the_modules_of_the_jobs_systems_are_imported(imported: list[str], tmp_path: Path) -> None:
    save_job(load_job(JOBS / "sparsepipe-shapes.toml"), tmp_path / "job.toml")
    for words, module in (
        ([DIGITS, "--stanza.steps", "1"], "stanza.train.loop"),
        ([DIGITS, "--system", "sparsepipe"], "sparsepipe.system.pipelines"),
        (["--records", str(tmp_path), str(tmp_path)], "sparsepipe.system.pipelines"),
    ):
        ahead.import_ahead(words)
        assert module in imported
        assert len(set(imported)) == len(imported)
        imported.clear()


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["no.toml"], ["--records", "nowhere"], ["--system", "none"]]
)
def test_what_is_wrong_is_left_to_the_ranks(
    words: list[str], imported: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    ahead.import_ahead(words)
    assert imported == []
    assert capfd.readouterr() == ("", "")


def test_modules_that_are_named_exist() -> None:
    names = [name for system in installed.all_systems() for name in system.rank_modules]
    assert [name for name in names if find_spec(name) is None] == []
