"""What a rank uses of its machine while it trains: processor time, memory, and its link."""

import time
from dataclasses import dataclass

import torch

from systems.measure import peak_memory_bytes
from systems.network.tcp import tcp_bytes


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Of one rank, over its steps without the first, in which connections and buffers are made."""

    utilisation: float | None
    """Processor time over time and threads; a rank that waits for messages uses none over gloo, all
    over MPI, which spins. None on a GPU."""
    peak_memory_bytes: int
    """Since the process began; see `systems.measure`."""
    sent_bytes_per_s: float | None
    """Over TCP, no headers. None where the kernel does not count."""
    received_bytes_per_s: float | None


@dataclass(frozen=True)
class Reading:
    """Counters at one moment."""

    clock_s: float
    processor_s: float
    tcp: tuple[int, int] | None
    """Bytes sent and received."""


def reading() -> Reading:
    """The counters of this process, now."""
    return Reading(time.perf_counter(), time.process_time(), tcp_bytes())


def usage(start: Reading, end: Reading, device: torch.device) -> Usage:
    """What was used between two readings."""
    lasted_s = end.clock_s - start.clock_s
    sent, received = None, None
    if start.tcp is not None and end.tcp is not None:
        sent, received = ((e - s) / lasted_s for s, e in zip(start.tcp, end.tcp, strict=True))
    busy = (end.processor_s - start.processor_s) / lasted_s / torch.get_num_threads()
    return Usage(
        utilisation=None if device.type == "cuda" else busy,
        peak_memory_bytes=peak_memory_bytes(device),
        sent_bytes_per_s=sent,
        received_bytes_per_s=received,
    )
