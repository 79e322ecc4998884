"""What else this machine does while a run computes on it, by the counters of Linux."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
"""The unit of the counters in /proc/stat."""


@dataclass(frozen=True)
class HostReading:
    """The counters of the whole machine at one moment, in seconds of one core."""

    clock_s: float
    busy_s: float
    """What all processes have computed."""
    stolen_s: float
    """What the machine below, of which this is a virtual one, has given to others meanwhile."""


@dataclass(frozen=True, kw_only=True)
class HostUse:
    """What the machine did between two readings."""

    others_cores: float
    """How many cores the processes of others kept busy."""
    stolen_cores: float
    """How many cores the machine below gave to others."""
    cores: int
    """How many this machine has."""


def host_reading() -> HostReading | None:
    """Read the counters; None where there are none."""
    try:
        words = Path("/proc/stat").read_text().partition("\n")[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _wait, interrupts, soft, stolen = map(int, words[1:9])
    busy = user + nice + system + interrupts + soft
    return HostReading(time.perf_counter(), busy / TICKS_PER_S, stolen / TICKS_PER_S)


def host_use(start: HostReading, end: HostReading, own_s: float) -> HostUse:
    """Compute what the machine did between two readings.

    Args:
        own_s: the processor seconds of the processes that are meant to run, meanwhile.
    """
    lasted_s = end.clock_s - start.clock_s
    others_s = max(0.0, end.busy_s - start.busy_s - own_s)
    return HostUse(
        others_cores=others_s / lasted_s,
        stolen_cores=(end.stolen_s - start.stolen_s) / lasted_s,
        cores=os.cpu_count() or 1,
    )
