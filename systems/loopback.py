"""The rate of this machine's loopback link, measured with two processes over gloo."""

import datetime
import multiprocessing
import time
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from systems.cluster import Link
from systems.distributed import free_port

LARGE_BYTES = 16 * 1024**2
SMALL_BYTES = 4
REPETITIONS = 15


def measure_loopback() -> Link:
    """One direction, 16 MiB messages for the bandwidth, 4-byte round trips for the latency."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    port = free_port()
    processes = [
        context.Process(target=_main, args=(rank, port, theirs if rank == 0 else None))
        for rank in range(2)
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


def _main(rank: int, port: int, result: Connection | None) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    torch.set_num_threads(1)
    large_s, small_s = _one_way_s(rank, LARGE_BYTES), _one_way_s(rank, SMALL_BYTES)
    if result is not None:
        result.send((large_s, small_s))
    dist.destroy_process_group()


def _one_way_s(rank: int, size_bytes: int) -> float:
    """Half of the median round trip."""
    message = torch.ones(size_bytes, dtype=torch.uint8)
    times = []
    for _ in range(REPETITIONS + 2):
        start = time.perf_counter()
        if rank == 0:
            dist.send(message, 1)
            dist.recv(message, 1)
        else:
            dist.recv(message, 0)
            dist.send(message, 0)
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[REPETITIONS // 2] / 2
