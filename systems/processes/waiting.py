"""Marks what a rank waits for, for which ranks, and since when.

    with waiting("gradient of micro-batch 2", peers=[3]):
        work.wait()

A background thread prints the text once it has lasted `patience_s`. What happens when it lasts
longer than the run's time-out is in systems.processes.watchdog.
"""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from systems.processes import background


@dataclass(frozen=True)
class Operation:
    """What a thread waits for, or has waited for last."""

    what: str
    """What it is, in words."""
    peers: tuple[int, ...] = ()
    """The ranks that have to do something before it ends."""
    since: float = field(default_factory=time.monotonic)
    """When it began, or for one that is over, when it ended; in seconds on the monotonic clock."""


_current: dict[int, Operation] = {}  # by thread
_last: dict[int, Operation] = {}  # by thread, ended


@contextmanager
def waiting(what: str, peers: Sequence[int] = ()) -> Iterator[None]:
    """Mark this thread as waiting for `what`, from the ranks `peers`, until the block ends."""
    thread = threading.get_ident()
    outer = _current.get(thread)
    _current[thread] = Operation(what, tuple(peers))
    try:
        yield
    finally:
        if outer is None:
            _current.pop(thread, None)
        else:
            _current[thread] = outer
        _last[thread] = Operation(what, tuple(peers))


def operations() -> list[Operation]:
    """List what the threads of this process wait for now, the longest wait first."""
    return sorted(list(_current.values()), key=lambda operation: operation.since)


def operation_of(thread: int) -> Operation | None:
    """Return what the thread of that number waits for now; None if it does not wait."""
    return _current.get(thread)


def last_operation_of(thread: int) -> Operation | None:
    """Return what the thread of that number has waited for last; None if it never has."""
    return _last.get(thread)


class Announcer:
    """A background thread that prints long waits; `close` ends it."""

    def __init__(self, who: str, patience_s: float) -> None:
        """Print waits of more than `patience_s` seconds, in the name of `who`."""
        self._who, self._patience_s = who, patience_s
        self._closed = threading.Event()
        self._thread = background.start("announcer", self._watch, stop=self._closed.set)

    def _watch(self) -> None:
        """Look from time to time whether a wait is long."""
        while not self._closed.wait(self._patience_s):
            now = time.monotonic()
            for operation in operations():
                lasted_s = now - operation.since
                if lasted_s >= self._patience_s:
                    text = f"{self._who}: waiting for {operation.what} ({lasted_s:.0f} s)"
                    print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Stop announcing."""
        self._closed.set()
        background.join(self._thread)
