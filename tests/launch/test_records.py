"""Runs that start at the same moment have a record each."""

import threading
import time
from pathlib import Path

import pytest

from launch import records
from launch.planning import plan_job
from stanza.options import Options
from stanza.system import SYSTEM as STANZA
from systems.schema import InputError

RUNS = 8


def test_runs_of_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(time, "strftime", lambda *_: "now")
    start, found = threading.Barrier(RUNS), []

    def run() -> None:
        start.wait()
        found.append(records._fresh_folder("digits"))

    threads = [threading.Thread(target=run) for _ in range(RUNS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = ["now-digits", *(f"now-digits-{i}" for i in range(RUNS - 1))]
    assert sorted(path.name for path in found) == names
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names


def test_of_two_runs_that_were_given_one_folder_the_second_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = STANZA.job(Options(scheme="ddp"), world_size=2, out=str(tmp_path / "record"))
    plan = plan_job(job, may_measure=False)
    folder = records.create_record(job, plan)
    kept = (folder / "job.toml").read_text()
    (folder / "run.json").unlink()
    monkeypatch.setattr(records, "claim_record", lambda *_: None)  # both have seen an empty folder
    with pytest.raises(InputError, match="another run has taken it"):
        records.create_record(job, plan)
    assert (folder / "job.toml").read_text() == kept


@pytest.mark.parametrize("what", ["a file", "a link to a disk that is not there"])
def test_a_place_where_no_folder_can_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "a file":
        (tmp_path / "runs").write_text(what)
    else:
        (tmp_path / "runs").symlink_to(tmp_path / "not-mounted" / "runs")
    monkeypatch.setattr(records, "RUNS", tmp_path / "runs")
    with pytest.raises(InputError, match=r"runs: File exists; give another --out"):
        records._fresh_folder("digits")


def test_what_is_kept_is_said_with_a_way_to_go_on(tmp_path: Path) -> None:
    assert "run it again" in records.what_is_kept(tmp_path)
    (tmp_path / "checkpoints" / "step-00000004").mkdir(parents=True)
    assert f"--resume {tmp_path}" in records.what_is_kept(tmp_path)
    (tmp_path / "checkpoints" / "final").mkdir()
    assert "the trained model" in records.what_is_kept(tmp_path)
    assert "--resume" not in records.what_is_kept(tmp_path)  # it has no steps left
