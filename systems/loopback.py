"""The rate of this machine's loopback link, measured with as many processes as a run has ranks.

Ranks of one machine share its cores and its memory, so what one of them gets depends on how many
send at a time: all send to their neighbours at once, in a ring, and the slowest counts.
"""

import datetime
import multiprocessing
import time
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from systems.cluster import Link
from systems.environment import free_port

LARGE_BYTES = 8 * 1024**2
SMALL_BYTES = 4
REPETITIONS = 15


def measure_loopback(ranks: int = 2) -> Link:
    """What each of `ranks` processes gets in each direction, all of them sending and receiving.

    8 MiB messages for the bandwidth, 4-byte messages for the latency; over gloo.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    port, size = free_port(), max(2, ranks)
    processes = [
        context.Process(target=_main, args=(rank, size, port, theirs if rank == 0 else None))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    theirs.close()
    try:
        large_s, small_s = ours.recv()
    except EOFError:
        raise RuntimeError("the loopback measurement failed, its error is above") from None
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    return Link(bandwidth_bits_per_s=LARGE_BYTES * 8 / (large_s - small_s), latency_s=small_s)


def _main(rank: int, size: int, port: int, result: Connection | None) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=60),
    )
    large_s, small_s = _ring_s(LARGE_BYTES), _ring_s(SMALL_BYTES)
    if result is not None:
        result.send((large_s, small_s))
    dist.destroy_process_group()


def _ring_s(size_bytes: int) -> float:
    """Median time of a simultaneous exchange; the slowest rank's, as every repetition waits for it.

    All ranks send to the next and receive from the one before; a barrier parts the repetitions.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    outgoing = torch.ones(size_bytes, dtype=torch.uint8)
    incoming = torch.zeros(size_bytes, dtype=torch.uint8)
    slowest = []
    for _ in range(REPETITIONS + 2):
        dist.barrier()
        start = time.perf_counter()
        receive = dist.irecv(incoming, (rank - 1) % size)
        send = dist.isend(outgoing, (rank + 1) % size)
        for work in (receive, send):
            assert work is not None  # every rank is in the default group
            work.wait()
        lasted = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
        dist.all_reduce(lasted, op=dist.ReduceOp.MAX)
        slowest.append(lasted.item())
    return sorted(slowest[2:])[REPETITIONS // 2]
