"""What a rank uses of its machine while it trains: processor time, memory, and its link."""

import time
from dataclasses import dataclass

import torch

from systems.measure import peak_memory_bytes
from systems.network.tcp import tcp_bytes


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a rank used over its steps, without the first, which makes connections and buffers."""

    utilisation: float | None
    """Processor time divided by time and by the number of threads. While it waits for messages, a
    rank uses no processor over gloo, and a whole one over MPI, which spins. None on a GPU."""
    peak_memory_bytes: int
    """The most memory that the process has held since it began; see `systems.measure`."""
    sent_bytes_per_s: float | None
    """What was sent over TCP, without headers. None where the kernel does not count it."""
    received_bytes_per_s: float | None
    """The same of what was received."""


@dataclass(frozen=True)
class Reading:
    """The counters of a process at one moment."""

    clock_s: float
    """A clock that nobody sets."""
    processor_s: float
    """Processor time of all threads."""
    tcp: tuple[int, int] | None
    """Bytes sent and received over TCP; None where the kernel does not count them."""


def reading() -> Reading:
    """Read the counters of this process."""
    return Reading(time.perf_counter(), time.process_time(), tcp_bytes())


def usage(start: Reading, end: Reading, device: torch.device) -> Usage:
    """Compute what a rank on this device used between two readings."""
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
