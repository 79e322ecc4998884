"""Ranks as plain processes: their variables, and how a failing one ends the others."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from launch.launchers.local import run_processes, variables
from systems.environment import environment
from systems.processes import supervise
from systems.processes.forked import fork_rank


def leave_a_file() -> None:
    Path(f"rank-{os.environ['RANK']}").write_text(str(os.getpid()))


def sleep() -> None:
    leave_a_file()
    time.sleep(600)


def fail_as_rank_1() -> None:
    leave_a_file()
    if os.environ["RANK"] == "1":
        sys.exit(3)
    time.sleep(600)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(supervise, "GRACE_S", 0.2)


def test_every_rank_reads_its_place() -> None:
    place = environment(variables(2, 3, 29500))
    assert (place.launcher, place.rank, place.world_size) == ("local", 2, 3)
    assert (place.local_rank, place.local_world_size) == (2, 3)
    assert (place.master_address, place.master_port) == ("127.0.0.1", 29500)


def test_all_ranks_run() -> None:
    assert run_processes(3, leave_a_file) == 0
    assert sorted(path.name for path in Path().iterdir()) == ["rank-0", "rank-1", "rank-2"]


def alive(path: Path) -> bool:
    return Path("/proc", path.read_text()).exists()


def test_the_first_rank_that_fails_ends_the_others_and_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_processes(3, fail_as_rank_1) == 3
    assert "error: rank 1 ended with code 3" in capsys.readouterr().err
    assert not any(alive(path) for path in Path().glob("rank-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_ranks(number: signal.Signals, tmp_path: Path) -> None:
    def start() -> None:
        signal.signal(number, signal.SIG_DFL)  # nohup's would be inherited
        raise SystemExit(run_processes(2, sleep))

    starter = fork_rank(start)
    ranks = [tmp_path / "rank-0", tmp_path / "rank-1"]
    while not all(path.is_file() and path.read_text() for path in ranks):
        time.sleep(0.02)
    os.kill(starter, number)
    assert os.waitstatus_to_exitcode(os.waitpid(starter, 0)[1]) == 128 + number
    while any(alive(path) for path in ranks):
        time.sleep(0.02)


def test_nohup_keeps_a_run_alive(tmp_path: Path) -> None:
    """What starts a program with SIGHUP ignored wants it to go on, and its ranks too."""

    def start() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        raise SystemExit(run_processes(2, hang_up))

    starter = fork_rank(start)
    assert os.waitstatus_to_exitcode(os.waitpid(starter, 0)[1]) == 0
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in range(2)] == ["alive"] * 2


def hang_up() -> None:
    for process in (os.getppid(), os.getpid()):
        os.kill(process, signal.SIGHUP)
    Path(f"rank-{os.environ['RANK']}").write_text("alive")
