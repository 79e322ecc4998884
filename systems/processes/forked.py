"""Ranks that are forked from a launcher which has imported what they need.

Importing torch takes seconds of a core. A launcher that imports it once, and forks its ranks,
starts them in tenths of a second. A fork copies the thread that calls it alone, with whatever locks
other threads hold, and torchrun's agent has threads as soon as it serves its store. So its ranks
are forked before that, and wait:

    waiting = [Waiting(run_rank) for _ in range(4)]
    ...                                        # the agent starts, and learns the place of each rank
    rank = waiting.pop().begin(variables)
    rank.poll()                                # None while it runs, then its exit code

A launcher does not touch a GPU before it forks: CUDA does not survive that.
"""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

from systems.processes import background
from systems.processes.lifetime import die_with_parent

POLL_S = 0.02
"""How often we look whether a rank has ended."""
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that ask a process to end."""


def heeded() -> list[signal.Signals]:
    """The signals of `ENDING` that this process heeds: started by nohup, it ignores SIGHUP."""
    return [
        number
        for number in ENDING
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    ]


def fork_rank(run: Callable[[], object]) -> int:
    """Fork a process that calls `run`, and ends with the exit code that a program would have;
    returns its process id. The process dies with this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    # What a handler raises while Python forks is printed and lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    process = os.fork()
    if process == 0:
        _live(run)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _live(run: Callable[[], object]) -> NoReturn:
    """Be a rank, and end."""
    die_with_parent(signal.SIGKILL)
    for number in heeded():
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # ranks print into one stream
    code = background.exit_code_of(run)
    background.finish(background.SHORT_PATIENCE_S if code else background.PATIENCE_S)
    background.end_now(code)


def take_variables(variables: Mapping[str, str]) -> None:
    """Let this process, a rank, have these environment variables beside its own. The number of
    threads is one that libraries read when they are imported, so torch is told as well."""
    os.environ.update(variables)
    torch = sys.modules.get("torch")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None and threads.isdecimal() and int(threads):
        torch.set_num_threads(int(threads))


class Waiting:
    """A forked process, the leader of a session of its own, that waits to become a rank."""

    def __init__(self, run: Callable[[], object]) -> None:
        """Fork it. It calls `run` as soon as it may begin."""
        self._ours, theirs = socket.socketpair()
        self.process = fork_rank(lambda: self._wait(theirs, run))
        theirs.close()

    def _wait(self, channel: socket.socket, run: Callable[[], object]) -> None:
        """Wait, in the forked process, for what a rank has to know; then be that rank."""
        self._ours.close()
        os.setsid()
        with channel, channel.makefile("rw") as lines:
            print(file=lines, flush=True)
            beginning = lines.readline()
        if not beginning:  # the launcher has no use for it
            return
        variables, streams = json.loads(beginning)
        for descriptor, path in zip((1, 2), streams, strict=True):
            if path is not None:
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
                os.dup2(file, descriptor)
                os.close(file)
        take_variables(variables)
        run()

    def begin(
        self, variables: Mapping[str, str], stdout: str | None = None, stderr: str | None = None
    ) -> "Rank":
        """Let the process become a rank with these environment variables, beside its own.

        Args:
            stdout: the path of a file for what it prints there; None keeps the launcher's stream.
            stderr: the same.
        """
        with self._ours, self._ours.makefile("rw") as lines:
            lines.readline()  # its session is there, and can be signalled
            print(json.dumps([dict(variables), [stdout, stderr]]), file=lines, flush=True)
        return Rank(self.process)

    def dismiss(self) -> None:
        """End the process, which is not needed."""
        self._ours.close()
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


class Rank:
    """A forked rank, as far as torchrun's agent uses a `subprocess.Popen`."""

    def __init__(self, process: int) -> None:
        self.pid = process
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the rank runs."""
        if self.returncode is None:
            process, status = os.waitpid(self.pid, os.WNOHANG)
            if process:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; returns the exit code.

        Raises:
            subprocess.TimeoutExpired: it has not ended after `timeout` seconds.
        """
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a rank", timeout or 0)
            time.sleep(POLL_S)
        return code
