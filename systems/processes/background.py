"""Background threads, and the end of a process that has them.

When a process ends, Python (3.11 to 3.13) unwinds the daemon threads that are still running. A
thread that is inside C++ at that moment, where it waits for a store, for gloo or for MPI, cannot be
unwound: the process aborts, whatever its exit code was to be. A thread that holds the lock of a
standard stream does the same. So a process may end only when its threads are out of foreign code:

    thread = start("announcer", watch, stop=closed.set)
    ...
    closed.set()
    join(thread)

At exit every thread that is left is asked to stop and waited for. A thread whose peer has died may
never come back; a program therefore ends with `leave`, which then leaves Python out of it.

Gloo has threads too, and they last as long as anything holds their process group, such as
DistributedDataParallel. One that frees what a backward pass has sent asks for Python's lock, and
aborts the process if Python is ending (pytorch issue 190489). `leave` looks for them as well.
"""

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

PATIENCE_S = 5.0
"""How long we wait for a thread to end: a store answers late on a busy machine."""
SHORT_PATIENCE_S = 0.2
"""The same after a failure: the peer that the thread waits for may have failed as well."""

_running: dict[threading.Thread, Callable[[], object]] = {}


def start(
    name: str, work: Callable[[], object], *, stop: Callable[[], object] = lambda: None
) -> threading.Thread:
    """Start `work` in a thread called `name`, which does not keep the process alive.

    Args:
        stop: a function that asks the work to end soon. It may be called more than once, and from
            any thread.
    """

    def run() -> None:
        try:
            work()
        finally:
            _running.pop(threading.current_thread(), None)

    thread = threading.Thread(target=run, name=name, daemon=True)
    _running[thread] = stop
    thread.start()
    return thread


def join(thread: threading.Thread, patience_s: float = PATIENCE_S) -> bool:
    """Wait for a thread that was asked to stop; returns whether it has ended.

    A thread that calls this for itself, because it closes what it belongs to, does not wait.
    """
    if thread is not threading.current_thread():
        thread.join(patience_s)
    return not thread.is_alive()


def finish(patience_s: float = PATIENCE_S) -> bool:
    """Ask all background threads to stop and wait for them; returns whether all have ended."""
    left = [(thread, stop) for thread, stop in list(_running.items()) if thread.is_alive()]
    for _, stop in left:
        stop()
    deadline = time.monotonic() + patience_s
    return all([join(thread, max(0.0, deadline - time.monotonic())) for thread, _ in left])


def exit_code_of(work: Callable[[], object]) -> int:
    """Run `work`; returns the exit code that a program would have that does nothing else.

    Errors are printed as Python prints them at the end of a program.
    """
    try:
        work()
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def leave(code: int) -> None:
    """End this program with an exit code that no thread can change.

    The process ends at once, without Python's own clearing up, in three cases: a thread does not
    end; a process group is still there, because a run was cut short or something holds it; or a run
    over MPI has failed, whose own end would wait for ranks that wait for this one (mpirun ends
    them).

    Raises:
        SystemExit: in all other cases.
    """
    finished = finish(SHORT_PATIENCE_S if code else PATIENCE_S)
    distributed = sys.modules.get("torch.distributed")
    cut_short = distributed is not None and getattr(distributed, "is_initialized", bool)()
    mpi_would_wait = code != 0 and "mpi4py.MPI" in sys.modules
    if finished and not cut_short and not mpi_would_wait and not _gloo_runs():
        raise SystemExit(code)
    end_now(code)


def _gloo_runs() -> bool:
    """Whether a thread of a process group may still ask for Python's lock (told on Linux only)."""
    for name in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # this thread has just ended
            if name.read_text().strip() == "pt_gloo_runloop":
                return True
    return False


def end_now(code: int) -> NoReturn:
    """End this process without Python's own clearing up, in which threads are unwound."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more, or it is closed
            stream.flush()
    os._exit(code)


def _at_exit() -> None:
    """End the background threads of a program that does not call `leave`.

    If one of them does not end, the process ends at once, but only where an exception was the
    reason: else its exit code is not known here.
    """
    if not finish() and getattr(sys, "last_value", None) is not None:
        end_now(1)


atexit.register(_at_exit)
