"""Programs that end while a background thread waits for a store that answers late.

    python -m tests.systems.processes.late_exits 200            # every kind of thread, a row each

Each program is a fork of this one, so that Python's own finalization runs in it. Its exit code must
be 0: a thread that Python unwinds inside C++ aborts the process (SIGABRT).
"""

import collections
import datetime
import os
import queue
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator

import torch.distributed as dist

import systems.processes.watchdog
from sparsepipe.runtime.mailbox import Inbox, Outbox
from systems.data.batches import prefetch
from systems.environment import free_port
from systems.processes.beside import beside
from systems.processes.waiting import Announcer, waiting
from systems.processes.watchdog import Watchdog
from systems.progress.table import every

LATEST_S = 0.2
TIMEOUT = datetime.timedelta(seconds=30)

kept: list[object] = []
"""What a program holds at its end, as a module's variables do."""


class AskingForever:
    """Stands for data, messages and works that ask the store, again and again."""

    def __init__(self, store: dist.Store) -> None:
        self.store = store

    def wait(self) -> None:
        self.store.check(["never"])

    def arrivals(self) -> Iterator[bool]:
        while True:
            yield self.store.check(["never"])

    def ask_for(self, duration_s: float) -> None:
        end = time.monotonic() + duration_s
        while time.monotonic() < end:
            self.store.check(["never"])

    def batch(self, indices: object) -> object:
        self.ask_for(0.3)
        return indices


def closed_watchdog(store: dist.Store) -> Callable[[], object]:
    """A run that ends well."""
    systems.processes.watchdog.BEATS = (
        300_000  # a beat of 0.3 ms: it is nearly always inside the store
    )
    watchdog = Watchdog(0, ["worker"], store, 100.0)
    return watchdog.close


def open_watchdog(store: dist.Store) -> None:
    """A run that has failed."""
    kept.append(closed_watchdog(store))


def announcer(store: dist.Store) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    kept.append(Announcer("rank 0", 1e-5))
    wait = waiting("what never comes")
    kept.append(wait)
    wait.__enter__()


def work_beside(store: dist.Store) -> None:
    beside("server", lambda: AskingForever(store).ask_for(0.3))


def inbox(store: dist.Store) -> None:
    box = Inbox(AskingForever(store).arrivals(), "activations")
    beside("rank", lambda: [box.get() for _ in range(10**4)])


def full_inbox(store: dist.Store) -> None:
    Inbox(AskingForever(store).arrivals(), "activations")


def outbox(store: dist.Store) -> None:
    box = Outbox("sends", most=4)

    def send() -> None:
        for _ in range(10**4):
            box._sent.put(AskingForever(store), timeout=0.5)

    beside("rank", lambda: _until_full(send))


def _until_full(send: Callable[[], None]) -> None:
    try:
        send()
    except queue.Full:
        return


def data(store: dist.Store) -> None:
    batches = prefetch(AskingForever(store), iter(range(9)), ahead=2)  # type: ignore[arg-type]
    kept.append(batches)
    beside("rank", lambda: next(batches))


def progress(store: dist.Store) -> None:
    shown = every(1e-4, AskingForever(store).wait)
    kept.append(shown)
    shown.__enter__()


KINDS: dict[str, Callable[[dist.Store], Callable[[], object] | None]] = {
    "closed watchdog": closed_watchdog,
    "open watchdog": open_watchdog,
    "announcer": announcer,
    "work beside": work_beside,
    "inbox": inbox,
    "full inbox": full_inbox,
    "outbox": outbox,
    "data": data,
    "progress": progress,
}


class Ended(Exception):
    """This is a program, and has come to its end: Python finalizes it."""


def ends(kind: str, count: int) -> dict[int, int]:
    """How often programs with such a thread ended with which exit code; a signal's is negative.

    Raises:
        Ended: in every program.
    """
    port = free_port()
    server = os.fork()
    if not server:
        kept.append(_connect(port, serve=True))
        signal.pause()
    codes: collections.Counter[int] = collections.Counter()
    try:
        for _ in range(count):
            reading, writing = os.pipe()
            program = os.fork()
            if not program:
                _come_to_the_end(kind, port, server, writing)
                raise Ended
            os.read(reading, 1)
            time.sleep(random.uniform(0, LATEST_S))
            os.kill(server, signal.SIGCONT)
            codes[os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])] += 1
            os.close(reading)
            os.close(writing)
        return dict(codes)
    finally:
        if os.getpid() == parent:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)


def _come_to_the_end(kind: str, port: int, server: int, writing: int) -> None:
    """All that a program does: its thread is inside the store at the end."""
    store = _connect(port)
    kept.append(store)
    close = KINDS[kind](store)
    time.sleep(0.02)
    os.kill(server, signal.SIGSTOP)
    time.sleep(0.01)
    os.write(writing, b".")
    if close is not None:
        close()


def _connect(port: int, *, serve: bool = False) -> dist.Store:
    return dist.TCPStore("127.0.0.1", port, None, serve, TIMEOUT, wait_for_workers=False)


def main() -> None:
    """Print a row for every kind."""
    count, kinds = int(sys.argv[1]), sys.argv[2:] or list(KINDS)
    for kind in kinds:
        try:
            codes = ends(kind, count)
        except Ended:
            return
        print(f"{kind}: {' '.join(f'{code}x{n}' for code, n in sorted(codes.items()))}", flush=True)


parent = os.getpid()
if __name__ == "__main__":
    main()
