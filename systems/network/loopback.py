"""Measures the rate of this machine's loopback link, with as many processes as a run has ranks.

Ranks of one machine share its cores and its memory, so the rate that one of them gets depends on
how many send at a time. Here all send to their neighbours at once, in a ring, and the slowest
counts.
"""

import datetime
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from systems.clusters.cluster import Link
from systems.environment import LOOPBACK
from systems.network import meeting
from systems.network.links import SMALL_BYTES, neighbours_s
from systems.processes.spawned import answer_of_rank_0

LARGE_BYTES = 8 * 1024**2
REPETITIONS = 15
PATIENCE_S = 60.0


def measure_loopback(ranks: int = 2) -> Link:
    """Measure the link that each of `ranks` processes has while all send and receive over gloo.

    Messages of 8 MiB give the bandwidth, messages of 4 bytes the latency.

    Raises:
        RuntimeError: a process failed.
    """
    store = meeting.serve(LOOPBACK, 0, PATIENCE_S)
    large_s, small_s = answer_of_rank_0(
        _main, max(2, ranks), store.port, what="the loopback measurement"
    )
    return Link(bandwidth_bits_per_s=LARGE_BYTES * 8 / (large_s - small_s), latency_s=small_s)


def _main(rank: int, ranks: int, port: int, result: Connection | None) -> None:
    """Exchange messages as one of the processes; the first one sends the seconds of both sizes
    back."""
    torch.set_num_threads(1)
    meeting.stay_on_loopback()
    dist.init_process_group(
        "gloo",
        store=meeting.connect(LOOPBACK, port, PATIENCE_S),
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=PATIENCE_S),
    )
    large_s, small_s = (
        neighbours_s(size, REPETITIONS).amax(1).median().item()
        for size in (LARGE_BYTES, SMALL_BYTES)
    )
    if result is not None:
        result.send((large_s, small_s))
    dist.destroy_process_group()
