"""How core seconds are measured, on one rank or on all together, and what a cost is made of.

Core time is the processor's own account of a process, so nothing that other programs take, and
nothing that a rank waits for, is in it. Between two repetitions every rank computes for a moment,
as it does in a step: caches are then as cold, and threads as fast asleep, as they are there.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.distributed as dist
from torch import nn

from systems.clusters.host import Cost

ROUNDS = 3
"""How often everything is measured; medians count."""
REPETITIONS = 6
"""How many messages or passes are measured at a time."""
IDLE_S = 0.05
"""For how long ranks do nothing, to see what that takes."""

Pass = Callable[[], float]
"""Computes for a moment and returns the core seconds that it took."""
Measured = Callable[[], float]
"""Measures core seconds once more. All ranks call it together, and all get the same answer."""


def computing() -> Pass:
    """Return a function that makes a pass through a small layer, both ways, whose values fill the
    caches of a core."""
    layer, images = nn.Conv2d(16, 32, 3, padding=1), torch.rand(16, 16, 24, 24)

    def compute() -> float:
        begun = time.thread_time()
        layer(images).sum().backward()
        return time.thread_time() - begun

    return compute


def of_all_ranks(once: Pass) -> Measured:
    """Return a function that measures the core seconds of a rank for something that all ranks do
    together. The seconds for which the rank computes meanwhile, which `once` returns, do not
    count."""

    def used_s(act: Callable[[], float]) -> tuple[float, float]:
        """Return the core seconds besides those that `act` returns, and the seconds by the
        clock."""
        dist.barrier()
        begun, begun_core_s = time.perf_counter(), time.process_time()
        computed_s = act()
        return time.process_time() - begun_core_s - computed_s, time.perf_counter() - begun

    def alone_s() -> float:
        """Return the core seconds of a repetition, without those of gloo's threads, which look up a
        hundred times a second even where nothing comes."""
        core_s, lasted_s = used_s(lambda: sum(once() for _ in range(REPETITIONS)))
        idle_core_s, idle_s = used_s(_rest)
        return max(0.0, core_s - lasted_s * idle_core_s / idle_s) / REPETITIONS

    return lambda: summed(alone_s()) / dist.get_world_size()


def _rest() -> float:
    """Rest for a moment; returns 0, for nothing was computed."""
    time.sleep(IDLE_S)
    return 0.0


def line(small: Measured, large: Measured, size_bytes: float) -> Cost:
    """Fit a cost as a straight line through the core seconds for next to nothing and for so many
    bytes.

    They are measured in turns, and what counts is their difference within a round: on a machine
    whose cores change their speed, two that were measured one after the other may stand the other
    way round.
    """
    rounds_s = [(small(), large()) for _ in range(ROUNDS + 1)][1:]  # caches fill in the first
    fixed_s = median(small_s for small_s, _ in rounds_s)
    more_s = median(large_s - small_s for small_s, large_s in rounds_s)
    return Cost(fixed_s=max(0.0, fixed_s), byte_s=max(0.0, more_s) / size_bytes)


def on_rank_0(function: Callable[[], float]) -> float:
    """Call a function on rank 0 while the other ranks wait; returns what it returns, on all of
    them."""
    dist.barrier()
    return summed(function() if dist.get_rank() == 0 else 0.0)


def summed(value: float) -> float:
    """Sum a number over all ranks."""
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return total.item()
