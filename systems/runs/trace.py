"""Spans of time, per rank as JSON lines, joined into one Chrome/Perfetto trace.

tracer = Tracer(folder, rank)          # or Tracer.off()
with tracer.span("fc compute", micro_batch=2):
    ...
join(folder, names)                    # trace.json: open it in ui.perfetto.dev
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from systems import disk
from systems.schema import to_json


class Tracer:
    """Writes the spans of this rank, on a clock that all ranks share (systems.network.clock)."""

    def __init__(
        self,
        folder: Path | None,
        rank: int,
        ahead_ns: int = 0,
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        """Open the file of this rank's spans.

        Args:
            folder: the record of the run; None: nothing is written.
            ahead_ns: what must be added to this rank's clock to get the clock of rank 0.
            settle: waits for what the thread has begun, on a GPU; else a span would end before it.
        """
        self._settle = settle
        self._rank = rank
        # A monotonic clock: whoever sets the host's moves no span.
        self._zero_ns = time.time_ns() - time.perf_counter_ns() + ahead_ns
        self._path = Path()
        self._file: IO[str] | None = None
        self._lock = threading.Lock()
        if folder is not None:
            self._path = folder / "trace" / f"rank-{rank}.jsonl"
            with disk.writing(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w")

    @classmethod
    def off(cls) -> "Tracer":
        """A tracer that writes nothing."""
        return cls(None, 0)

    @contextmanager
    def span(self, name: str, **details: Any) -> Iterator[None]:
        """Write how long the block takes, as a span on the track of the thread that calls this.

        Args:
            details: what a viewer shows beside the name.
        """
        if self._file is None:
            yield
            return
        self._settle()
        start_ns = time.perf_counter_ns()
        try:
            yield
            self._settle()
        finally:
            event = {
                "name": name,
                "ph": "X",
                "ts": (self._zero_ns + start_ns) / 1e3,
                "dur": (time.perf_counter_ns() - start_ns) / 1e3,
                "pid": self._rank,
                "tid": threading.current_thread().name,
                "args": details,
            }
            with self._lock:  # a text file's buffer is not safe between threads
                self._write(to_json(event) + "\n")

    def close(self) -> None:
        """Flush and close the file."""
        with self._lock:
            if self._file is not None:
                with self._ending_where_it_fails(self._file):
                    self._file.close()
            self._file = None

    def _write(self, line: str) -> None:
        """Write one line, unless the trace has ended."""
        if self._file is not None:  # else it has ended in another thread
            with self._ending_where_it_fails(self._file):
                self._file.write(line)

    @contextmanager
    def _ending_where_it_fails(self, file: IO[str]) -> Iterator[None]:
        """A trace that cannot be written ends with a warning, and the run goes on."""
        try:
            yield
        except OSError as error:
            with suppress(OSError):  # it tries to write once more what it still has
                file.close()
            self._file = None
            print(
                f"warning: {disk.reason(error)}: {self._path} could not be written; the trace of "
                f"rank {self._rank} ends here, and the run goes on",
                file=sys.stderr,
                flush=True,
            )


def write_timeline(path: Path, spans: Iterable[tuple[str, str, float, float]]) -> None:
    """Write simulated spans, (track, name, start, end) in seconds, as a Chrome/Perfetto trace."""
    tracks: dict[str, int] = {}
    events: list[dict[str, Any]] = []
    for track, name, start_s, end_s in spans:
        number = tracks.setdefault(track, len(tracks))
        times = {"ts": start_s * 1e6, "dur": (end_s - start_s) * 1e6}
        events.append({"name": name, "ph": "X", **times, "pid": number, "tid": 0})
    events += [
        {"name": "process_name", "ph": "M", "pid": number, "args": {"name": track}}
        for track, number in tracks.items()
    ]
    disk.write_text(path, to_json({"traceEvents": events, "displayTimeUnit": "ms"}))


def join(folder: Path, names: Sequence[str]) -> Path:
    """Join the spans of all ranks into one Chrome/Perfetto trace; returns its path, `trace.json`.

    A process of the trace is a rank, and a track is one of its threads. Times begin with the first
    span.

    Args:
        folder: the record of the run.
        names: what the trace calls the ranks, in their order.
    """
    spans = [
        json.loads(line)
        for path in sorted((folder / "trace").glob("rank-*.jsonl"))
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")  # not the line at which a disk was full
    ]
    zero_us = min((span["ts"] for span in spans), default=0.0)
    threads: dict[tuple[int, str], int] = {}
    for span in spans:
        thread = (span["pid"], span["tid"])
        span["tid"] = threads.setdefault(thread, len(threads))
        span["ts"] -= zero_us
    events = [_named("process_name", rank, 0, name) for rank, name in enumerate(names)]
    events += [_named("thread_name", rank, tid, name) for (rank, name), tid in threads.items()]
    target = folder / "trace.json"
    disk.write_text(target, to_json({"traceEvents": events + spans, "displayTimeUnit": "ms"}))
    return target


def _named(what: str, rank: int, thread: int, name: str) -> dict[str, Any]:
    """The event of a trace that gives a process or a thread its name."""
    return {"name": what, "ph": "M", "pid": rank, "tid": thread, "args": {"name": name}}
