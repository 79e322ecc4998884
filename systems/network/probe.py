"""Measures what a machine whose ranks share its cores takes for all that a step does: a `Host`.

    host = host_here(ranks=4, threads=1)    # starts four processes, unless an answer is kept

It takes a second, and as long again for the processes to start. The answer is kept in the cache
folder (`systems.build.cache_folder`), in one file for every machine, number of ranks and threads,
and version of torch; whoever wants to measure again deletes it. Core time is the processor's own
account of a process, so a message's does not include what its ranks wait for.
"""

import datetime
import hashlib
import multiprocessing
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor, nn

from systems import disk, schema
from systems.build import CacheError, cache_folder
from systems.clusters.host import Cost, Host
from systems.environment import LOOPBACK, available_cores
from systems.network import meeting
from systems.schema import InputError

SMALL_BYTES, LARGE_BYTES = 4, 2 * 1024**2
"""The sizes of messages and vectors that are measured; a straight line goes through both."""
ROUNDS = 3
"""How often everything is measured; medians count."""
REPETITIONS = 12
"""How many messages or passes are measured at a time."""
COMPUTE_S = 0.1
"""For how long ranks compute, alone and at once, in a round."""
PATIENCE_S = 60.0


def host_here(ranks: int, threads: int) -> Host:
    """This machine for so many ranks with so many threads each, as it was measured before, or else
    is measured now.

    Raises:
        RuntimeError: a process failed.
    """
    kept = kept_host(ranks, threads)
    if kept is not None:
        return kept
    print(f"probing this machine with {ranks} processes: a few seconds", file=sys.stderr)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    store = meeting.serve(LOOPBACK, 0, PATIENCE_S)
    processes = [
        context.Process(
            target=_main, args=(rank, ranks, threads, store.port, None if rank else theirs)
        )
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    theirs.close()
    try:
        found: Host = ours.recv()
    except EOFError:
        raise RuntimeError("the probe of this machine failed, its error is above") from None
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    keep(found, ranks)
    return found


def _main(rank: int, ranks: int, threads: int, port: int, result: Connection | None) -> None:
    """One of the processes; the first one sends the answer back."""
    torch.set_num_threads(threads)
    meeting.stay_on_loopback()
    dist.init_process_group(
        "gloo",
        store=meeting.connect(LOOPBACK, port, PATIENCE_S),
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=PATIENCE_S),
    )
    found = probe()
    if result is not None:
        result.send(found)
    dist.destroy_process_group()


def probe() -> Host:
    """Measure this machine. All ranks of the default group, which are all on it, call this
    together, and all get the same answer."""
    send, receive, latency_s = _messages() if dist.get_world_size() > 1 else _no_messages()
    ranks, today = dist.get_world_size(), datetime.date.today()
    host = Host(
        source=f"a probe of {ranks} ranks on {today}, {platform.node()}, torch {torch.__version__}",
        cores=_cores(),
        threads=torch.get_num_threads(),
        latency_s=latency_s,
        send=send,
        receive=receive,
        ring=_ring(),
        copy=_memory(lambda values: lambda: values.clone()),
        add=_memory(_adding),
        update=_memory(_updating),
    )
    told = [host]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def shared_host() -> Host:
    """The same for the ranks that run already, which are all on this machine and call this
    together, in torch's default group."""
    ranks = dist.get_world_size()
    told = [kept_host(ranks, torch.get_num_threads()) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(told, src=0)
    if told[0] is not None:
        return told[0]
    found = probe()
    if dist.get_rank() == 0:
        keep(found, ranks)
    return found


def kept_host(ranks: int, threads: int) -> Host | None:
    """What was measured of this machine before and is kept; None: nothing that can be read."""
    with suppress(CacheError, InputError, OSError):
        path = _kept(ranks, threads)
        if path.is_file():
            return schema.load(Host, path, "probe", "testbed plan stanza")
    return None


def keep(found: Host, ranks: int) -> None:
    """Keep what was measured. If that fails, a line on stderr says so, and it is measured again
    the next time."""
    try:
        path = _kept(ranks, found.threads)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk.write_text(path, schema.to_json(schema.dump(found), indent=2) + "\n")
        print(f"  kept in {path}; delete it to probe again", file=sys.stderr)
    except (CacheError, InputError, OSError) as error:
        print(f"  the probe is not kept: {error}", file=sys.stderr)


def _kept(ranks: int, threads: int) -> Path:
    """The file of an answer: there is one for everything that it depends on."""
    machine = [platform.node(), platform.release(), platform.machine(), available_cores()]
    key = hashlib.sha256(repr([*machine, ranks, threads, torch.__version__]).encode()).hexdigest()
    return cache_folder() / f"host-{key[:16]}.json"


def _cores() -> float:
    """How many cores all ranks have together; see `Host.cores`.

    By their number alone it would be too many: cores that are all busy are slower, since they share
    caches, memory and perhaps arithmetic units. So a rank's work in a second of core time is
    compared, alone and beside all others. What other programs take meanwhile does not count.
    """
    layer, images = nn.Conv2d(16, 32, 3, padding=1), torch.rand(8, 16, 16, 16)

    def passes_per_core_s() -> float:
        """How many passes through a small layer this rank does in a second of core time."""
        done, begun, begun_core_s = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - begun < COMPUTE_S:
            layer(images).sum().backward()
            done += 1
        return done / (time.process_time() - begun_core_s)

    ranks, threads = dist.get_world_size(), torch.get_num_threads()
    ratios = []
    for _ in range(ROUNDS + 1):
        alone = _on_rank_0(passes_per_core_s)
        dist.barrier()
        ratios.append(_summed(passes_per_core_s()) / ranks / alone)
    return min(ranks * threads, available_cores()) * median(ratios[1:])  # caches fill in the first


def _memory(make: Callable[[Tensor], Callable[[], object]]) -> Cost:
    """The cost of what `make` makes for a vector, on one rank while the others wait."""

    def seconds(size_bytes: int) -> float:
        once = make(torch.ones(size_bytes // 4))

        def core_s() -> float:
            begun = time.process_time()
            for _ in range(REPETITIONS):
                once()
            return (time.process_time() - begun) / REPETITIONS / torch.get_num_threads()

        return median([_on_rank_0(core_s) for _ in range(ROUNDS + 1)][1:])

    return _line(seconds(SMALL_BYTES), seconds(LARGE_BYTES), LARGE_BYTES)


def _updating(values: Tensor) -> Callable[[], object]:
    """The step of an optimizer for one parameter with these values."""
    parameter = nn.Parameter(values)
    parameter.grad = torch.ones_like(values)
    return torch.optim.SGD([parameter], lr=1e-9, momentum=0.9).step


def _adding(values: Tensor) -> Callable[[], object]:
    """The sum of a vector and another one."""
    other = torch.ones_like(values)
    return lambda: values.add_(other)


def _messages() -> tuple[Cost, Cost, float]:
    """The costs of a message of its sender and its receiver, and the latency besides."""
    small, large = (
        [median(side) for side in zip(*(_one_way_s(size) for _ in range(ROUNDS)), strict=True)]
        for size in (SMALL_BYTES, LARGE_BYTES)
    )
    send, receive = (_line(a, b, LARGE_BYTES) for a, b in zip(small, large, strict=True))
    there_s = _ping_s()
    return send, receive, max(0.0, there_s - send.fixed_s - receive.fixed_s)


def _no_messages() -> tuple[Cost, Cost, float]:
    """The same where there is one rank."""
    return Cost(fixed_s=0, byte_s=0), Cost(fixed_s=0, byte_s=0), 0.0


def _one_way_s(size_bytes: int) -> tuple[float, float]:
    """The core seconds of rank 0, which sends, and of rank 1, which receives, for one message."""
    rank, core_s = dist.get_rank(), 0.0
    if rank < 2:
        buffers = [torch.ones(size_bytes, dtype=torch.uint8) for _ in range(REPETITIONS)]
    for _ in range(2):
        works, begun = [], time.process_time()
        if rank == 1:  # receives are posted first, as in a step
            works = [dist.irecv(buffer, 0) for buffer in buffers]
        core_s = time.process_time() - begun
        dist.barrier()
        begun = time.process_time()
        if rank == 0:
            works = [dist.isend(buffer, 1) for buffer in buffers]
        for work in works:
            assert work is not None  # every rank is in the default group
            work.wait()
        core_s += time.process_time() - begun
        dist.barrier()
    both = torch.zeros(dist.get_world_size(), dtype=torch.float64)
    both[rank] = core_s / REPETITIONS
    dist.all_reduce(both)
    return both[0].item(), both[1].item()


def _ping_s() -> float:
    """The seconds from one of two ranks to the other, of the smallest message. The shortest counts:
    whatever else this machine does makes it longer."""
    rank, message = dist.get_rank(), torch.ones(SMALL_BYTES, dtype=torch.uint8)
    dist.barrier()
    round_trips_s = []
    for _ in range(2 * REPETITIONS if rank < 2 else 0):
        begun = time.perf_counter()
        for turn in range(2):
            if turn == rank:
                dist.send(message, 1 - rank)
            else:
                dist.recv(message, 1 - rank)
        round_trips_s.append(time.perf_counter() - begun)
    return _on_rank_0(lambda: min(round_trips_s) / 2)


def _ring() -> Cost:
    """The cost of a message of a ring all-reduce; see `Host.ring`."""
    ranks = dist.get_world_size()
    if ranks == 1:
        return Cost(fixed_s=0, byte_s=0)
    small_s, large_s = (
        median(_all_reduce_s(size) for _ in range(ROUNDS)) for size in (SMALL_BYTES, LARGE_BYTES)
    )
    rounds = 2 * (ranks - 1)
    return _line(small_s / rounds, large_s / rounds, LARGE_BYTES / ranks)


def _all_reduce_s(size_bytes: int) -> float:
    """The core seconds that an all-reduce takes of a rank."""
    values = torch.ones(size_bytes // 4)
    dist.all_reduce(values)
    begun = time.process_time()
    for _ in range(REPETITIONS):
        dist.all_reduce(values)
    core_s = time.process_time() - begun
    return _summed(core_s) / dist.get_world_size() / REPETITIONS


def _line(small_s: float, large_s: float, size_bytes: float) -> Cost:
    """The cost whose straight line goes through those of nothing and of so many bytes."""
    return Cost(fixed_s=small_s, byte_s=max(0.0, large_s - small_s) / size_bytes)


def _on_rank_0(function: Callable[[], float]) -> float:
    """What a function returns on rank 0, while the other ranks wait."""
    dist.barrier()
    return _summed(function() if dist.get_rank() == 0 else 0.0)


def _summed(value: float) -> float:
    """The sum of a number over all ranks."""
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return total.item()
