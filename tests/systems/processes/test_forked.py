"""Forked ranks wait for their place, end as programs do, and die when nobody needs them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from systems.processes.forked import Waiting, fork_rank


def code_of(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def write_place() -> None:
    place = [os.environ["RANK"], torch.get_num_threads(), os.getsid(0) == os.getpid()]
    os.write(1, f"{place}\n".encode())
    os.write(2, b"to stderr\n")


def test_a_rank_begins_with_the_variables_and_streams_that_it_is_told(tmp_path: Path) -> None:
    out, err = tmp_path / "out", tmp_path / "err"
    for rank, threads in enumerate((1, 2)):
        waiting = Waiting(write_place)
        variables = {"RANK": str(rank), "OMP_NUM_THREADS": str(threads)}
        assert waiting.begin(variables, str(out), str(err)).wait() == 0
    assert out.read_text() == "['0', 1, True]\n['1', 2, True]\n"
    assert err.read_text() == "to stderr\n" * 2


def test_exit_codes_are_those_of_a_program(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("no such rank")

    assert code_of(fork_rank(lambda: None)) == 0
    assert code_of(fork_rank(lambda: sys.exit(3))) == 3
    assert code_of(fork_rank(fail)) == 1
    assert "ValueError: no such rank" in capfd.readouterr().err


def test_a_rank_is_signalled_with_its_session() -> None:
    rank = Waiting(signal.pause).begin({})
    assert rank.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        rank.wait(0.01)
    os.killpg(rank.pid, signal.SIGTERM)
    assert rank.wait() == -signal.SIGTERM
    assert rank.poll() == -signal.SIGTERM


def test_who_is_not_needed_ends() -> None:
    first, second = Waiting(signal.pause), Waiting(signal.pause)
    first.dismiss()
    second.dismiss()
    for one in (first, second):
        assert not Path("/proc", str(one.process)).exists()


def test_a_rank_dies_with_its_launcher() -> None:
    read, write = os.pipe()

    def launch() -> None:
        os.write(write, str(fork_rank(signal.pause)).encode())
        signal.pause()

    launcher = fork_rank(launch)
    rank = int(os.read(read, 20))
    os.kill(launcher, signal.SIGKILL)
    assert code_of(launcher) == -signal.SIGKILL
    while Path("/proc", str(rank)).exists():
        pass
