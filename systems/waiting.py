"""A rank that waits says for what, and for how long already.

    with waiting("gradient of micro-batch 2 from rank 3 (fc)"):
        work.wait()

A background thread prints the text once it has lasted `patience_s`, and publishes it, so that on a
time-out any rank can show what every other rank was doing.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_current: dict[int, tuple[str, float]] = {}  # thread -> what it waits for, since when


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Mark this thread as waiting for `what` until the block ends."""
    thread = threading.get_ident()
    outer = _current.get(thread)
    _current[thread] = (what, time.monotonic())
    try:
        yield
    finally:
        if outer is None:
            _current.pop(thread, None)
        else:
            _current[thread] = outer


def current_operations(at_least_s: float = 0.0) -> list[str]:
    """What the threads of this process have been waiting for, for `at_least_s` or longer."""
    now = time.monotonic()
    waits = [(what, now - since) for what, since in list(_current.values())]
    return [f"{what} ({lasted:.0f} s)" for what, lasted in waits if lasted >= at_least_s]


class Announcer:
    """The background thread. `publish` is given each text as it is printed; `close` ends it."""

    def __init__(
        self, who: str, patience_s: float, publish: Callable[[str], None] | None = None
    ) -> None:
        self._who, self._patience_s, self._publish = who, patience_s, publish
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="announcer")
        self._thread.start()

    def _watch(self) -> None:
        while not self._closed.wait(self._patience_s):
            for text in current_operations(at_least_s=self._patience_s):
                print(f"{self._who}: waiting for {text}", file=sys.stderr, flush=True)
                if self._publish is not None:
                    with suppress(RuntimeError):  # the store went with the rank that serves it
                        self._publish(text)

    def close(self) -> None:
        """Stop announcing."""
        self._closed.set()
        self._thread.join()
