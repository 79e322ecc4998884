"""The one timer: warm-up, repetitions, median and spread; CUDA events or a monotonic clock.

Every duration that the testbed prints comes through here, so "median of n,
quartiles" means the same everywhere.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A sample of measurements in one unit: its median, quartiles and size."""

    median: float
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""
    n: int

    def __str__(self) -> str:
        return f"{self.median:.4g} [{self.low:.4g}, {self.high:.4g}] n={self.n}"


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of `values` (any unit).

    Raises:
        ValueError: no values.
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
) -> Spread:
    """Seconds that one call of `function` takes, over `repetitions` calls after `warm_up` calls.

    On a CUDA device the time between two events on the current stream, else a monotonic clock.
    """
    on_cuda = device is not None and device.type == "cuda"
    once = _cuda_seconds if on_cuda else _host_seconds
    for _ in range(warm_up):
        function()
    return spread([once(function) for _ in range(repetitions)])


def _host_seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _cuda_seconds(function: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held so far: the allocator's peak on CUDA, the process's resident peak on CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
