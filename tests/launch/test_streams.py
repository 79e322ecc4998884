"""Programs outlive the readers of their output, whichever stream it was and whoever closed it."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from launch.streams import outlive_readers
outlive_readers()
for line in range(2000):
    print("a line", line, flush=True)
    print("an error", line, file=sys.stderr)
subprocess.run([sys.executable, "-c", "print('a child')"], check=True)
print("the end")
Path(sys.argv[1]).write_text(f"{sys.stdout.isatty()} {open(os.devnull).fileno() > 2}")
"""


@pytest.mark.parametrize("gone", [(), (1,), (2,), (1, 2)])
def test_a_reader_that_goes_ends_nothing(gone: tuple[int, ...], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    streams = {1: subprocess.PIPE, 2: subprocess.PIPE} | dict.fromkeys(gone, writing)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "done")]
    done = subprocess.run(command, stdout=streams[1], stderr=streams[2], text=True)
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").read_text() == "False True"
    if 2 not in gone:
        assert done.stderr.splitlines() == [f"an error {line}" for line in range(2000)]
    if 1 not in gone:
        lines = [f"a line {line}" for line in range(2000)]
        assert done.stdout.splitlines() == [*lines, "a child", "the end"]


def test_streams_that_are_closed_from_the_start_are_no_files_numbers(tmp_path: Path) -> None:
    words = ["exec", sys.executable, "-c", '"$PROGRAM"', str(tmp_path / "done"), "<&- >&- 2>&-"]
    done = subprocess.run(["sh", "-c", " ".join(words)], env={**os.environ, "PROGRAM": PROGRAM})
    assert done.returncode == 0
    assert (tmp_path / "done").read_text() == "False True"


@pytest.mark.skipif(sys.platform != "linux", reason="terminals end as Linux ends them")
def test_a_terminal_that_is_closed_ends_nothing(tmp_path: Path) -> None:
    """As where a training goes on after a log-out (nohup, setsid, disown)."""
    screen, terminal = pty.openpty()
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "done")]
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, start_new_session=True)
    os.close(terminal)
    os.read(screen, 1)  # it has begun
    os.close(screen)
    assert process.wait() == 0
    assert (tmp_path / "done").read_text() == "False True"
