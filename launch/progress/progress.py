"""Shows how a long command goes: a live table on a terminal, else lines that rank 0 prints.

    with shown([record]):
        run_ranks(...)

The process that started the ranks draws the table. What the ranks print appears above it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from launch.progress.live import LiveRecord
from systems.progress.table import PERIOD_S, every, is_live, live_table
from systems.progress.tensorboard import Sink
from systems.progress.view import View


@contextmanager
def shown(folders: Sequence[Path], *, tensorboard: bool = False) -> Iterator[None]:
    """Show how runs go while the block lasts. They follow each other, a record each."""
    if not is_live() and not tensorboard:
        yield
        return
    with ExitStack() as stack:
        records = [LiveRecord(folder) for folder in folders]
        sinks = [Sink(r.folder / "tensorboard", r.roles) for r in records if tensorboard]
        for sink in sinks:
            stack.callback(sink.close)
        look = partial(_look, deque(enumerate(records)), len(records), sinks)
        stack.enter_context(live_table(look) if is_live() else every(PERIOD_S, look))
        yield


def _look(left: deque[tuple[int, LiveRecord]], count: int, sinks: Sequence[Sink]) -> View:
    """Read what is new in the record that is being written; returns the progress of its run.

    Args:
        left: the records of runs that have not ended, with their numbers. A record whose run has
            ended since the last look is removed, except for the last one.
        count: the number of all records.
        sinks: writers for TensorBoard, one a record, or none.
    """
    while True:
        number, record = left[0]
        ended, new, view = record.ended, record.poll(), record.view()
        if sinks:
            sinks[number].write(new, view)
        if not ended or len(left) == 1:
            break
        left.popleft()
    title = view.title if count == 1 else f"run {number + 1} of {count}: {view.title}"
    return replace(view, title=title)
