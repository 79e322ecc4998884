"""Processes that end with the one that started them, or because they answer no more."""

import ctypes
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # linux/prctl.h


def die_with_parent(signal_number: int) -> None:
    """Ask the kernel (Linux) to signal this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)


def name_process(name: str) -> None:
    """Name this process, in at most 15 letters: ps and top show it (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())


def identity(process: int) -> str | None:
    """A name of a process that no other has, on any machine, now or later.

    Process numbers are used again; the name holds the time of the start as well. None if there is
    no such process, or no /proc.
    """
    try:
        namespace = os.readlink(f"/proc/{process}/ns/pid")
        started = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
    return f"{socket.gethostname()} {namespace} {process} {started}"


def kill(process: int, name: str | None) -> bool:
    """Kill a process of this machine if its identity is still `name`; returns whether it was."""
    if name is None or identity(process) != name:
        return False
    with suppress(OSError):
        os.kill(process, signal.SIGKILL)
    return True
