"""Ranks that are child processes: all end soon after the first that fails, which is told."""

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE_S = 5.0
"""After the first rank has failed, the others have this long to end by themselves."""
HANG_EXIT_CODE = 124
"""Of a rank that ends because the run hangs (systems.processes.watchdog); timeout(1) has the
same."""
TOLD = "SYSTEMS_TESTBED_FAILED"
"""Variable: the file by which a launcher's process learns which rank failed first. It has the
run's plan, and so knows the rank's role."""


def wait_for_ranks(running: dict[int, int]) -> int:
    """Wait for child processes (process id to rank); once one has failed, for the others only a
    little. Tells which failed first and returns its exit code; those that ended leave `running`.
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
    """Tell that a rank has failed: the launcher's process if it asks for it, else the user.
    So is the user where the file cannot be written, such as on a full disk.

    Args:
        reason: what the rank itself has said, where it is known.
    """
    if TOLD in os.environ:
        with suppress(OSError), open(os.environ[TOLD], "a") as file:
            file.write(f"{rank} {code}\n")
            return file.flush()
    because = f": {reason}" if reason else ""
    print(f"error: rank {rank} {how_it_ended(code)}{because}", file=sys.stderr, flush=True)


def told(path: Path) -> tuple[int, int] | None:
    """Rank and exit code (a signal's is negative) of what was told first; None: nothing."""
    line, end, _ = path.read_text().partition("\n")
    if not end:  # nothing, or what fitted on a full disk
        return None
    rank, code = line.split()
    return int(rank), int(code)


def how_it_ended(code: int) -> str:
    """ "was killed by SIGKILL", "ended with code 1", or that the run hung."""
    if code == HANG_EXIT_CODE:
        return "ended because the run hung, see above"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
