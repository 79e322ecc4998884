"""Times what ranks compute while all of them do so at once, as in a step of training.

All ranks must call these functions together.
"""

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from systems.processes.waiting import waiting

LEAST_S = 1.0
"""The least seconds that a function is called again and again: many periods of a core's share."""
LEAST_CALLS = 6
"""As many calls as that the slowest rank makes at least."""
PROBE_S = 0.5
"""How long the speed of a rank is measured."""
PROBE_ROWS = 160
"""The rows of the square matrices that are multiplied for it: short beside a period."""

Timer = Callable[[Callable[[], object]], float]
"""The seconds that a call of a function takes on this rank while all ranks call theirs."""


def seconds_together(function: Callable[[], object]) -> float:
    """The seconds that a call takes on this rank, on average, while all ranks call theirs.

    It is the mean and no median: a rank that is held to a share of a core runs at full speed or
    stands still, and a short call is mostly one of the two.
    """
    began = time.perf_counter()
    function()
    once_s = torch.tensor(time.perf_counter() - began, dtype=torch.float64)
    with waiting("all ranks at the measurement of their speed", _others()):
        dist.all_reduce(once_s, dist.ReduceOp.MAX)
        dist.barrier()
    return _mean_s(function, max(LEAST_S, LEAST_CALLS * once_s.item()))


def speeds_per_s() -> tuple[float, ...]:
    """Measure how often every rank multiplies two small matrices in a second while all ranks do;
    the same answer on all ranks."""
    values = torch.ones(PROBE_ROWS, PROBE_ROWS)
    speeds = torch.zeros(dist.get_world_size(), dtype=torch.float64)
    with waiting("all ranks at the measurement of their speed", _others()):
        dist.barrier()
        speeds[dist.get_rank()] = 1 / _mean_s(lambda: values @ values, PROBE_S)
        dist.all_reduce(speeds)
    return tuple(speeds.tolist())


def _mean_s(function: Callable[[], object], least_s: float) -> float:
    """The mean seconds of a call, over at least so many seconds."""
    calls, began = 0, time.perf_counter()
    while (lasted_s := time.perf_counter() - began) < least_s:
        function()
        calls += 1
    return lasted_s / calls


def _others() -> list[int]:
    return [rank for rank in range(dist.get_world_size()) if rank != dist.get_rank()]
