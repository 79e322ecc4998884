"""Measures what a machine whose ranks share its cores takes for all that a step does: a `Host`.

`systems.network.host_here` starts the ranks for it, and keeps the answer. A shaped run measures
its own ranks, in their namespaces and under their quotas. It takes about two seconds on an idle
machine, and longer where ranks are held.
How core seconds are measured is in `systems.network.core_seconds`.
"""

import datetime
import platform
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from statistics import median

import torch
import torch.distributed as dist
from torch import nn

from systems.clusters.host import NOTHING, Cost, Host
from systems.data.batches import prefetch
from systems.data.dataset import Batch, TensorSplit
from systems.environment import available_cores
from systems.network.core_seconds import (
    REPETITIONS,
    ROUNDS,
    Measured,
    Pass,
    computing,
    line,
    of_all_ranks,
    on_rank_0,
    summed,
)
from systems.network.distributed import World
from systems.network.transport import TorchTransport

SMALL_BYTES, LARGE_BYTES = 32, 2 * 1024**2
"""The sizes of messages and vectors that are measured, in turns. A straight line
goes through both."""
OVER_LINK_BYTES = 256 * 1024
"""The size of a large message that crosses a slow link."""
PARAMETERS = 4
"""How many parameters an optimizer updates at a time."""
COMPUTE_S = 0.1
"""For how long ranks compute, alone and at once, in a round."""
CHANNEL = "probe"
"""The transport's channel for the messages."""


def probe(
    world: World, *, share: float | None = None, bandwidth_bits_per_s: float | None = None
) -> Host:
    """Measure this machine, which all ranks of the world are on. All of them call this together,
    with the threads that they compute with, and all get the same answer.

    Args:
        share: the share of a core that each rank is held to just now.
        bandwidth_bits_per_s: the rate of the link that each is behind.
    """
    ranks, threads = world.world_size, torch.get_num_threads()
    compute = computing()
    busy = _speed_of_busy_cores(compute)
    copy, add, update = (_memory(make, compute) for make in (_copying, _adding, _updating))
    torch.set_num_threads(1)  # what follows takes no more, and a pass's core time is its thread's
    step_s = median(on_rank_0(lambda: _step_s(compute)) for _ in range(ROUNDS))
    large_bytes = LARGE_BYTES if bandwidth_bits_per_s is None else OVER_LINK_BYTES
    message, latency_s = _messages(world, compute, large_bytes) if ranks > 1 else (NOTHING, 0.0)
    ring = _ring(compute, large_bytes) if ranks > 1 else NOTHING
    torch.set_num_threads(threads)
    today = datetime.date.today()
    host = Host(
        source=f"a probe of {ranks} ranks on {today}, {platform.node()}, torch {torch.__version__}",
        cores=min(ranks * threads, available_cores()) * busy,
        threads=threads,
        latency_s=latency_s,
        step_s=step_s,
        # These were measured while all ranks were busy, and count as of one that is alone.
        message=_times(message, busy),
        ring=_times(ring, busy),
        copy=copy,
        add=add,
        update=update,
        share=None if share is None else share * busy,
        bandwidth_bits_per_s=bandwidth_bits_per_s,
    )
    from_rank_0 = [host]
    dist.broadcast_object_list(from_rank_0, src=0)
    return from_rank_0[0]


def _speed_of_busy_cores(compute: Pass) -> float:
    """Measure the speed of a core while all ranks compute, over that of a core while one rank does.

    Cores that are all busy are slower, since they share caches, memory and perhaps arithmetic
    units, and ranks that take turns on a core find its caches cold.
    """

    def passes_per_core_s() -> float:
        """Count the passes that this rank does in a second of core time."""
        done, begun, begun_core_s = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - begun < COMPUTE_S:
            compute()
            done += 1
        return done / (time.process_time() - begun_core_s)

    ratios = []
    for _ in range(ROUNDS + 1):
        alone = on_rank_0(passes_per_core_s)
        dist.barrier()
        ratios.append(summed(passes_per_core_s()) / dist.get_world_size() / alone)
    return min(1.0, median(ratios[1:]))  # caches fill in the first


def _memory(make: Callable[[int], Callable[[], object]], compute: Pass) -> Cost:
    """Measure the cost by the byte of the functions that `make` returns, on one rank while the
    others wait."""

    def seconds(size_bytes: int) -> Measured:
        once = make(size_bytes)

        def core_s() -> float:
            used_s = 0.0
            for _ in range(REPETITIONS):
                compute()
                begun = time.process_time()
                once()
                used_s += time.process_time() - begun
            return used_s / REPETITIONS / torch.get_num_threads() / pieces

        return lambda: on_rank_0(core_s)

    pieces = PARAMETERS if make is _updating else 1
    return line(seconds(SMALL_BYTES), seconds(LARGE_BYTES), LARGE_BYTES / pieces)


def _copying(size_bytes: int) -> Callable[[], object]:
    """Return a function that copies a vector."""
    values = torch.ones(size_bytes // 4)
    return values.clone


def _adding(size_bytes: int) -> Callable[[], object]:
    """Return a function that adds a vector to another one."""
    values, others = torch.ones(size_bytes // 4), torch.ones(size_bytes // 4)
    return lambda: values.add_(others)


def _updating(size_bytes: int) -> Callable[[], object]:
    """Return a function that takes the step of an optimizer for a few parameters, which together
    have so many bytes, and clears their gradients."""
    parameters = [
        nn.Parameter(torch.ones(size_bytes // 4 // PARAMETERS)) for _ in range(PARAMETERS)
    ]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.SGD(parameters, lr=1e-9, momentum=0.9)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return update


def _step_s(compute: Pass) -> float:
    """Measure the core seconds of a step of almost nothing: a batch is read in advance, goes
    through a layer of one value, and its loss is computed, forward and backward."""
    layer = nn.Linear(1, 2)
    batches = _batches()
    next(batches)
    used_s, begun = 0.0, time.process_time()
    for _ in range(REPETITIONS):
        used_s -= compute()
        images, labels = next(batches)
        loss = nn.functional.cross_entropy(layer(images), labels, reduction="sum")
        (loss / len(images)).backward()
        loss.item()
    return (used_s + time.process_time() - begun) / REPETITIONS


def _batches() -> Iterator[Batch]:
    """Yield batches of four samples, without end, which a thread reads in advance."""
    split = TensorSplit(4, lambda: (torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)))
    return prefetch(split, repeat(torch.arange(4)))


def _messages(world: World, compute: Pass, large_bytes: int) -> tuple[Cost, float]:
    """Measure the cost of a message, and the latency besides."""
    transport = TorchTransport(world, [CHANNEL])
    before, after = (world.rank - 1) % world.world_size, (world.rank + 1) % world.world_size

    def core_s(size_bytes: int) -> Measured:
        outgoing, incoming = (torch.ones(size_bytes, dtype=torch.uint8) for _ in range(2))

        def exchange() -> float:
            receive = transport.irecv(incoming, before, CHANNEL)
            computed_s = compute()
            send = transport.isend(outgoing, after, CHANNEL)
            receive.wait()
            send.wait()
            return computed_s

        return of_all_ranks(exchange)

    cost = line(core_s(SMALL_BYTES), core_s(large_bytes), large_bytes)
    transport.close()
    return cost, _latency_s()


def _latency_s() -> float:
    """Measure the seconds from one of two ranks to the other, of the smallest message, beyond its
    core time. The shortest round trip counts: whatever else this machine does makes it longer."""
    rank, message = dist.get_rank(), torch.ones(SMALL_BYTES, dtype=torch.uint8)
    dist.barrier()
    round_trips_s, begun_core_s = [], time.process_time()
    for _ in range(2 * REPETITIONS if rank < 2 else 0):
        begun = time.perf_counter()
        for turn in range(2):
            if turn == rank:
                dist.send(message, 1 - rank)
            else:
                dist.recv(message, 1 - rank)
        round_trips_s.append(time.perf_counter() - begun)
    core_s = (time.process_time() - begun_core_s) / max(1, len(round_trips_s))
    of_both_s = summed(core_s if rank < 2 else 0.0)
    return max(0.0, on_rank_0(lambda: min(round_trips_s)) - of_both_s) / 2


def _ring(compute: Pass, large_bytes: int) -> Cost:
    """Measure the cost of a message of a ring all-reduce; see `Host.ring`."""
    ranks = dist.get_world_size()

    def core_s(size_bytes: int) -> Measured:
        values = torch.ones(size_bytes // 4)

        def all_reduce() -> float:
            computed_s = compute()
            dist.all_reduce(values)
            return computed_s

        of_all_rounds_s = of_all_ranks(all_reduce)
        return lambda: of_all_rounds_s() / (2 * (ranks - 1))

    return line(core_s(SMALL_BYTES), core_s(large_bytes), large_bytes / ranks)


def _times(cost: Cost, factor: float) -> Cost:
    """Multiply a cost by a factor."""
    return Cost(fixed_s=cost.fixed_s * factor, byte_s=cost.byte_s * factor)
