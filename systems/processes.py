"""Processes that end with the one that started them; ranks that end with the first that fails."""

import ctypes
import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
GRACE_S = 5.0
"""After the first rank has failed, the others have this long to end by themselves."""


def die_with_parent(signal_number: int) -> None:
    """Ask the kernel (Linux) to signal this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)


def wait_for_ranks(running: dict[int, int]) -> int:
    """Wait for child processes (process id to rank); once one has failed, for the others only a
    little. Says which failed first and returns its exit code; those that ended leave `running`.
    """
    failed, deadline = 0, float("inf")
    watched = {os.pidfd_open(process): process for process in running}
    try:
        while watched:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            ready, _, _ = select.select(list(watched), [], [], min(left_s, 3600))
            for descriptor in ready:
                process = watched.pop(descriptor)
                os.close(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                rank = running.pop(process)
                if code and not failed:
                    failed, deadline = code, time.monotonic() + GRACE_S
                    print(f"error: rank {rank} {_ended(code)}", file=sys.stderr, flush=True)
    finally:
        for descriptor in watched:
            os.close(descriptor)
    return failed


def _ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
