"""Draws how a long command goes as a live table on a terminal.

    with live_table(look):
        ...

What this process and its children print in the block appears above the table.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from systems.processes import background
from systems.progress.tensorboard import check_tensorboard
from systems.progress.view import View
from systems.runs.record import QUIET

PERIOD_S = 0.5
"""The table is drawn anew every so many seconds."""


@dataclass(frozen=True, kw_only=True)
class ProgressFlags:
    """The flags with which a long command says how much it shows."""

    quiet: bool = False
    """Show no live table and no lines of progress, only results and errors."""
    tensorboard: bool = False
    """Also write the steps of every rank for TensorBoard, into tensorboard/ in the record."""

    def apply(self) -> None:
        """Make the flags hold for this process and for the ranks that it starts.

        Raises:
            InputError: TensorBoard is not installed.
        """
        if self.quiet:
            os.environ[QUIET] = "1"
        if self.tensorboard:
            check_tensorboard()


def is_live() -> bool:
    """Whether a live table is drawn: on a terminal, without --quiet."""
    return sys.stdout.isatty() and QUIET not in os.environ and os.environ.get("TERM") != "dumb"


@contextmanager
def every(period_s: float, work: Callable[[], object]) -> Iterator[None]:
    """Call `work` on a thread every `period_s` seconds, and once more when the block has ended."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(period_s):
            work()

    thread = background.start("progress", loop, stop=ended.set)
    try:
        yield
    finally:
        ended.set()
        thread.join()
        work()


@contextmanager
def live_table(look: Callable[[], View]) -> Iterator[None]:
    """Draw the view that `look` returns, again and again, while the block lasts. Ranks that start
    in it print no lines of progress."""
    os.environ[QUIET] = "1"
    try:
        with (
            _printed_above() as console,
            Live(console=console, auto_refresh=False, transient=True) as table,
        ):

            def draw_again() -> None:
                table.update(draw(look()), refresh=True)

            with every(PERIOD_S, draw_again):
                yield
    finally:
        del os.environ[QUIET]


@contextmanager
def _printed_above() -> Iterator[Console]:
    """A console on the terminal. What this process and its children print in the block goes
    through it, so that it appears above the table."""
    captured = [stream for stream in (1, 2) if os.isatty(stream)]
    _flush()
    kept = {stream: os.dup(stream) for stream in captured}
    console = Console(file=os.fdopen(os.dup(kept[1]), "w"), force_terminal=True)
    reading, writing = os.pipe()
    for stream in captured:
        os.dup2(writing, stream)
    os.close(writing)

    def print_lines() -> None:
        with os.fdopen(reading, errors="replace") as lines:
            for line in lines:
                console.print(line.rstrip("\n"), markup=False, highlight=False, soft_wrap=True)

    printer = background.start("printer", print_lines)
    try:
        yield console
    finally:
        _flush()
        for stream, old in kept.items():
            os.dup2(old, stream)
            os.close(old)
        printer.join(timeout=2 * PERIOD_S)  # a child that outlives its run holds the pipe open


def _flush() -> None:
    """Hand everything that was printed to the operating system."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError):  # closed
            stream.flush()


def draw(view: View) -> Group:
    """A view to draw: two lines about the run as a whole, then a table with a line for each rank. A
    low terminal shows the first ranks only."""
    table = Table(box=box.SIMPLE)
    for name in ("rank", "role", "step", "step time", "state"):
        table.add_column(name, justify="right" if "step" in name else "left")
    for row in view.rows:
        step_s = "" if row.step_s is None else f"{row.step_s * 1e3:,.1f} ms"
        step = "" if row.step is None else str(row.step)
        table.add_row(row.name, row.role, step, step_s, row.state)
    return Group(Text(view.title), Text(progress_line(view)), table)


def progress_line(view: View) -> str:
    """Write step, throughput, loss and time left in one line, as far as they are known."""
    if view.step is None:
        return "no step yet"
    of = "" if view.last is None else f" of {view.last}"
    parts = [f"step {view.step}{of}"]
    if view.samples_per_s is not None:
        parts.append(f"{view.samples_per_s:,.0f} samples/s")
    if view.loss is not None:
        parts.append(f"loss {view.loss:.4f}")
    if view.left_s is not None:
        parts.append(f"{time.strftime('%H:%M:%S', time.gmtime(view.left_s))} left")
    return ", ".join(parts)
