"""The one timer: warm-up, repetitions, median and quartiles.

Every duration that the testbed prints is measured here, so that "median [quartiles] n" means the
same everywhere.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A sample of measurements in one unit: its median, quartiles and size."""

    median: float
    """The value in the middle."""
    low: float
    """The lower quartile."""
    high: float
    """The upper quartile."""
    n: int
    """How many values there are."""

    def __str__(self) -> str:
        return f"{self.median:.4g} [{self.low:.4g}, {self.high:.4g}] n={self.n}"


def spread(values: Sequence[float]) -> Spread:
    """The median and the quartiles of values, in their own unit.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no measurements: nothing to summarise")
    if len(values) == 1:
        return Spread(median=values[0], low=values[0], high=values[0], n=1)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median=median, low=low, high=high, n=len(values))


def timed(
    function: Callable[[], object],
    *,
    warm_up: int = 1,
    repetitions: int = 5,
    device: torch.device | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Spread:
    """Time a function; returns the spread of the seconds that one call takes.

    On a CUDA device the time between two events on the current stream counts, else a clock.

    Args:
        warm_up: calls before those that are timed.
        repetitions: calls that are timed.
        device: what the function computes on; None: the CPU.
        clock: what counts on a CPU: `time.perf_counter`, or `time.process_time`, which stands still
            while this process does.
    """
    on_cuda = device is not None and device.type == "cuda"
    once = _cuda_seconds if on_cuda else partial(_host_seconds, clock)
    for _ in range(warm_up):
        function()
    return spread([once(function) for _ in range(repetitions)])


def _host_seconds(clock: Callable[[], float], function: Callable[[], object]) -> float:
    """The seconds of one call by a clock."""
    start = clock()
    function()
    return clock() - start


def _cuda_seconds(function: Callable[[], object]) -> float:
    """The seconds that the GPU works for one call."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


class Laps:
    """The seconds that a device works in some blocks of a program, summed.

    laps = Laps(device)
    with laps.one():
        ...
    laps.taken_s()                  # since it was called last

    On a GPU they are the times between events on the current stream: the host is then done with a
    block before the GPU has begun it.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing is summed yet."""
        self._on_gpu = device.type == "cuda"
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def one(self) -> Iterator[None]:
        """Add the time of the block."""
        if not self._on_gpu:
            started = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - started
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        self._events.append((start, end))

    def taken_s(self) -> float:
        """The seconds of all blocks since this was called last; waits for the GPU's end of them."""
        for start, end in self._events:
            end.synchronize()
            self._seconds += float(start.elapsed_time(end)) / 1e3
        taken_s, self._seconds, self._events = self._seconds, 0.0, []
        return taken_s


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has held so far.

    On CUDA it is what torch's allocator has given out, on the CPU the resident memory.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
