"""Ends a run that hangs, and says which rank is to blame: a thread beside every rank.

Every rank writes into the key-value store again and again what it does: a beat. If a wait for other
ranks lasts longer than the run's time-out, one rank prints the table of systems.processes.hangs,
and every rank ends, even if its main thread is stuck inside a backend, where nothing else reaches
it. Silent ranks of the same machine are killed. If the store itself does not answer (this node is
cut off, or the node that keeps the store is gone), a rank says so in one line, and ends.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist

from systems.processes import background, failures
from systems.processes.hangs import Doing, table
from systems.processes.lifetime import identity, kill
from systems.processes.supervise import HANG_EXIT_CODE
from systems.processes.waiting import Operation, last_operation_of, operation_of, operations

BEATS = 20
"""How many times within a time-out a rank says what it does."""
LONGEST_BEAT_S = 5.0
LATE_BEATS, LATE_S = 3, 1.0
"""A rank that says nothing for this many beats, and for this many seconds, is silent."""
LINGER_S = 2.0
"""How long a rank stays when the run is over: rank 0, which may keep the store, so that others can
read it; and the one that has killed others, so that the launcher sees those end first."""
SLACK = 2.0
"""The time-outs of the backends are longer by this factor, so that the watchdog is first."""
HOME = str(Path(__file__).resolve().parents[2])
"""The folder of our own packages."""


class Watchdog:
    """The watchdog of one rank; `close` ends it.

    It has two threads: one talks to the store, and may get stuck in that; the other only looks at
    the clock, and ends the rank if the first one is stuck.
    """

    def __init__(
        self,
        rank: int,
        roles: Sequence[str],
        store: dist.Store,
        timeout_s: float,
        end: Callable[[], None] | None = None,
    ) -> None:
        """Watch the thread that calls this.

        Args:
            rank: the number of this rank.
            roles: the roles of all ranks, in their order.
            store: a connection to the store that nobody else uses: one that another thread reads
                from blocks.
            timeout_s: a wait of this length is a hang.
            end: ends this process. By default with the exit code HANG_EXIT_CODE, at once.
        """
        self._rank, self._roles, self._store, self._timeout_s = rank, roles, store, timeout_s
        self._end = end or _exit
        self._beat_s = min(LONGEST_BEAT_S, timeout_s / BEATS)
        self._late_s = max(LATE_S, LATE_BEATS * self._beat_s)
        self._main, self._began = threading.get_ident(), time.monotonic()
        self._heard = time.monotonic()
        self._beats = 0
        self._closed, self._identity = threading.Event(), identity(os.getpid())
        self._tell()
        self._threads = [
            background.start("watchdog", work, stop=self._closed.set)
            for work in (self._talk, self._look_at_the_clock)
        ]

    def close(self) -> None:
        """Stop watching, and wait until no thread is in the store any more."""
        self._closed.set()
        for thread in self._threads:
            background.join(thread)

    def _talk(self) -> None:
        """Write beats into the store, until this rank closes or some rank finds a hang."""
        try:
            while not self._closed.wait(self._beat_s):
                over, overdue = self._tell(), self._overdue(1.0)
                if not over and overdue and self._store.add("hang/reported", 1) == 1:
                    over = True
                    self._report(overdue)
                    self._store.set("hang/over", "")
                if over and not self._closed.is_set():
                    self._closed.set()
                    if self._rank == 0:
                        time.sleep(LINGER_S)
                    self._end()
        except RuntimeError:  # the store went with the rank that kept it: see the clock
            return

    def _look_at_the_clock(self) -> None:
        """End this rank if the store, or the rank that was to print the table, does not answer."""
        # Long: on a busy machine answers are late. A cut was there before the wait that it made.
        patience_s = max(self._late_s, self._timeout_s / 2)
        while not self._closed.wait(self._beat_s):
            unheard_s = time.monotonic() - self._heard
            if self._overdue(SLACK) and unheard_s < patience_s:
                reason = "the rank that was to print what all ranks do has not done so"
            elif unheard_s > (patience_s if self._overdue(1.0) else SLACK * self._timeout_s):
                reason = (
                    f"the master, rank 0's node, has not answered for {unheard_s:.0f} s: this node "
                    "is cut off from it, or the master is stopped or dead"
                )
            else:
                continue
            me, doing = f"rank {self._rank} ({self._roles[self._rank]})", self._doing()
            what = f"waits for {doing.operation}" if doing.state == "waiting" else doing.operation
            failures.tell(self._rank, f"{me} {what}; {reason}")
            self._end()

    def _overdue(self, times: float) -> Operation | None:
        """The longest wait of any thread for another rank, if it has lasted `times` time-outs."""
        longest = next((operation for operation in operations() if operation.peers), None)
        if longest is None or time.monotonic() - longest.since < times * self._timeout_s:
            return None
        return longest

    def _tell(self) -> bool:
        """Write into the store what this rank does; returns whether the run is over."""
        self._beats += 1
        beat = asdict(self._doing()) | {"beats": self._beats, "said": time.time()}
        beat |= {"process": os.getpid(), "identity": self._identity}
        self._store.set(f"doing/{self._rank}", json.dumps(beat))
        over = self._store.check(["hang/over"])  # an answer, unlike `set`
        self._heard = time.monotonic()
        return over

    def _doing(self) -> Doing:
        """Describe what this rank does now: what its main thread waits for, or where in our code it
        is."""
        role, now = self._roles[self._rank], time.monotonic()
        operation = operation_of(self._main)
        if operation is None:
            last = last_operation_of(self._main) or Operation("the start", since=self._began)
            text = f"{_where(self._main)}, after {last.what}"
            since = time.time() - (now - last.since)
            return Doing(role=role, state="busy", operation=text, peers=(), since=since)
        if not operation.peers:  # it waits for a thread of its own, which waits for a peer
            operation = next((o for o in operations() if o.peers), operation)
        return Doing(
            role=role,
            state="waiting",
            operation=operation.what,
            peers=operation.peers,
            since=time.time() - (now - operation.since),
        )

    def _report(self, overdue: Operation) -> None:
        """Print what all ranks do, and kill the silent ones of this machine.

        What the ranks say is read twice. Those that have said nothing new in between are silent.
        """
        before, asked = self._read_all(), time.monotonic()
        while time.monotonic() - asked < self._late_s:
            time.sleep(self._beat_s)
            self._tell()
        after = self._read_all()
        ranks = [
            _of(beat, role, silent=beat == earlier)
            for role, earlier, beat in zip(self._roles, before, after, strict=True)
        ]
        failures.tell(
            self._rank,
            f"hang: rank {self._rank} ({self._roles[self._rank]}) has waited "
            f"{time.monotonic() - overdue.since:.0f} s for {overdue.what}, longer than --timeout-s "
            f"{self._timeout_s:g}\n" + table(ranks, time.time()),
        )
        killed = [
            kill(beat["process"], beat["identity"])
            for doing, beat in zip(ranks, after, strict=True)
            if doing.state == "silent" and beat is not None
        ]
        if any(killed):
            time.sleep(LINGER_S)

    def _read_all(self) -> list[dict[str, Any] | None]:
        """The latest beat of every rank, as `_tell` writes it; None of a rank that wrote none."""
        keys = [f"doing/{rank}" for rank in range(len(self._roles))]
        return [
            json.loads(self._store.get(key)) if self._store.check([key]) else None for key in keys
        ]


def _of(beat: dict[str, Any] | None, role: str, *, silent: bool) -> Doing:
    """Describe what a rank does, from its latest beat."""
    if beat is None:
        return Doing(role=role, state="silent", operation="silent", peers=(), since=time.time())
    operation = beat["operation"]
    if silent:
        before = f"silent; before: {operation}"
        return Doing(role=role, state="silent", operation=before, peers=(), since=beat["said"])
    return Doing(
        role=role,
        state=beat["state"],
        operation=operation,
        peers=tuple(beat["peers"]),
        since=beat["since"],
    )


def _where(thread: int) -> str:
    """Say where in our own code a thread is, such as "in step, fc_worker.py:71"."""
    innermost = frame = sys._current_frames().get(thread)
    if innermost is None:
        return "ended"
    while frame is not None and not _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    frame = frame or innermost
    code = frame.f_code
    return f"in {code.co_name}, {os.path.basename(code.co_filename)}:{frame.f_lineno}"


def _is_ours(path: str) -> bool:
    """Whether a source file belongs to the testbed."""
    return path.startswith(HOME) and "site-packages" not in path  # a .venv may lie in HOME


def _exit() -> None:
    """End this process because the run hangs."""
    background.end_now(HANG_EXIT_CODE)
