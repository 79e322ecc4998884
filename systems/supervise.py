"""Ranks that are child processes: all end soon after the first that fails."""

import os
import select
import signal
import sys
import time

GRACE_S = 5.0
"""After the first rank has failed, the others have this long to end by themselves."""


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
