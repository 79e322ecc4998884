"""Waits for ranks that are child processes: once one has failed, all end soon.

The launcher that `testbed run` started learns by a file which rank was the first; `tell` writes it,
and `told` reads it.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from systems.processes.forked import fork_rank, heeded

GRACE_S = 5.0
"""After the first rank has failed, the others have this long to end by themselves."""
HANG_EXIT_CODE = 124
"""The exit code of a rank that ends because the run hangs (systems.processes.watchdog). It is that
of timeout(1)."""
TOLD = "SYSTEMS_TESTBED_FAILED"
"""The variable that names the file by which `testbed run` learns which rank failed first. It knows
the plan of the run, and thus the rank's role."""


def run_forked(world_size: int, be_rank: Callable[[int], object]) -> int:
    """Fork a process for every rank, in which `be_rank` is called with the rank's number, and wait
    for all; returns the exit code of the rank that failed first.

    A signal to this process ends all of them, and is then raised here as SystemExit.
    """
    previous = {number: signal.signal(number, _interrupt) for number in heeded()}
    running: dict[int, int] = {}
    try:
        for rank in range(world_size):
            running[fork_rank(partial(be_rank, rank))] = rank
        return wait_for_ranks(running)
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for process in running:
            os.waitpid(process, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    """End this process because of a signal, with the exit code that a shell gives."""
    raise SystemExit(128 + number)


def wait_for_ranks(running: dict[int, int]) -> int:
    """Wait for ranks to end. Once one has failed, the others get a few seconds more.

    Which rank failed first is told (see `tell`).

    Args:
        running: the rank of every child process, by process id. Those that have ended are removed.

    Returns:
        The exit code of the rank that failed first, negative for a signal; 0 if none has failed.
    """
    failed, deadline = 0, float("inf")
    watched = {os.pidfd_open(process): process for process in running}
    try:
        while watched:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            ready, _, _ = select.select(list(watched), [], [], min(left_s, 3600))
            ended = []
            for descriptor in ready:
                process = watched.pop(descriptor)
                os.close(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                ended.append((code, running.pop(process)))
            for code, rank in sorted(ended):  # of several at once those killed by a signal first
                if code and not failed:
                    failed, deadline = code, time.monotonic() + GRACE_S
                    tell(rank, code)
    finally:
        for descriptor in watched:
            os.close(descriptor)
    return failed


def tell(rank: int, code: int, reason: str = "") -> None:
    """Tell that a rank has failed: to `testbed run` by its file, else to the user on stderr.

    The user is told as well where the file cannot be written, such as on a full disk.

    Args:
        code: the exit code of the rank; a signal's is negative.
        reason: why it failed, as far as it has said so itself.
    """
    if TOLD in os.environ:
        with suppress(OSError), open(os.environ[TOLD], "a") as file:
            file.write(f"{rank} {code}\n")
            return file.flush()
    because = f": {reason}" if reason else ""
    print(f"error: rank {rank} {how_it_ended(code)}{because}", file=sys.stderr, flush=True)


def told(path: Path) -> tuple[int, int] | None:
    """The rank that failed first and its exit code, from the file that `tell` writes.

    None if no rank has failed.
    """
    line, end, _ = path.read_text().partition("\n")
    if not end:  # nothing, or what fitted on a full disk
        return None
    rank, code = line.split()
    return int(rank), int(code)


def how_it_ended(code: int) -> str:
    """Say in words how a process ended: "was killed by SIGKILL", "ended with code 1"."""
    if code == HANG_EXIT_CODE:
        return "ended because the run hung, see above"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
