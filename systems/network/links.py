"""Times messages between running ranks, to see what their links really give.

All ranks must call these functions together. In `calibrate` every rank sends to the next and
receives from the one before, all at once, so that each direction of every link is used to the full.
Where links have several rates, the faster ones would never be seen at theirs: `calibrate_pairs`
lets two ranks at a time exchange.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from systems.network.pairs import MOST_OFF, Pair, PairCalibration, meetings
from systems.processes.waiting import waiting

REPETITIONS, SHORT_REPETITIONS = 5, 30
"""How often messages are sent that measure rates, and those that measure latency."""
SMALL_BYTES = 4
LEAST_BYTES = 1_250_000
"""A message that measures the rate of a link is at least so long: what a link lets pass at full
speed after a pause is little beside it."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the emulated links of all ranks really give.

    Times are divided by the ideal time, which is the payload divided by the rate.
    """

    rate_bits_per_s: tuple[float, ...]
    """The rate that the link of every rank was given."""
    send_receive: tuple[float, ...]
    """By rank, the time of sending to one neighbour and receiving from the other, all ranks at
    once: the median of a few repetitions."""
    all_reduce: float
    """The time of an all-reduce, of the slowest rank."""
    latency_s: float
    """Seconds that a message of 4 bytes takes."""
    size_bytes: int
    """The size of the other messages."""

    def fault(self) -> str | None:
        """A sentence that names a link that is off by over 10 %; None if all keep their rate."""
        for rank, ratio in enumerate(self.send_receive):
            if abs(ratio - 1) > MOST_OFF:
                return f"the link of rank {rank} takes {ratio:.2f} of its ideal time"
        if abs(self.all_reduce - 1) > MOST_OFF:
            return f"an all-reduce takes {self.all_reduce:.2f} of its ideal time"
        return None

    def __str__(self) -> str:
        return (
            f"send and receive {min(self.send_receive):.3f} to {max(self.send_receive):.3f}, "
            f"all-reduce {self.all_reduce:.3f} of the ideal time, latency "
            f"{self.latency_s * 1e3:.3f} ms"
        )


def calibrate(rates_bits_per_s: tuple[float, ...], size_bytes: int) -> Calibration:
    """Measure the link of every rank against the rate that it was given.

    All ranks must call this together, and all get the same answer.

    Args:
        rates_bits_per_s: the rate of every rank's link.
        size_bytes: the size of the messages.
    """
    size = dist.get_world_size()
    seconds = neighbours_s(size_bytes, REPETITIONS).median(0).values
    # A rank is done when it has sent and received; the slower of two links carries a message.
    slower = [min(rates_bits_per_s[(r + step) % size] for step in (-1, 0, 1)) for r in range(size)]
    values = torch.ones(size_bytes // 4)
    reduce_s = _on_all(lambda: dist.all_reduce(values), REPETITIONS).amax(1).median().item()
    ring_bytes = 2 * size_bytes * (size - 1) / size
    return Calibration(
        rate_bits_per_s=rates_bits_per_s,
        send_receive=tuple(
            s / (size_bytes * 8 / rate) for s, rate in zip(seconds.tolist(), slower, strict=True)
        ),
        all_reduce=reduce_s / (ring_bytes * 8 / min(rates_bits_per_s)),
        latency_s=neighbours_s(SMALL_BYTES, REPETITIONS).amax(1).median().item(),
        size_bytes=size_bytes,
    )


def calibrate_pairs(rates_bits_per_s: tuple[float, ...], message_s: float) -> PairCalibration:
    """Measure what every two ranks get from each other against the slower of their links.

    All ranks must call this together, and all get the same answer.

    Args:
        rates_bits_per_s: the rate of every rank's link.
        message_s: how many seconds a message should last; over a slow link it lasts longer.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    pairs: list[Pair] = []
    for meeting in meetings(size):
        peer = next((sum(pair) - rank for pair in meeting if rank in pair), None)
        rate = min(rates_bits_per_s[rank], rates_bits_per_s[rank if peer is None else peer])
        size_bytes = max(LEAST_BYTES, round(rate / 8 * message_s))
        seconds = _on_all(_exchange(peer, peer, size_bytes), REPETITIONS).median(0).values.tolist()
        for one, other in meeting:
            slower = min(rates_bits_per_s[one], rates_bits_per_s[other])
            ideal_s = max(LEAST_BYTES * 8 / slower, message_s)
            ratio = max(seconds[one], seconds[other]) / ideal_s
            pairs.append(Pair(ranks=(one, other), ratio=ratio))
    return PairCalibration(
        rate_bits_per_s=rates_bits_per_s,
        pairs=tuple(sorted(pairs, key=lambda pair: pair.ranks)),
        latency_s=_least_latency_s() if size > 1 else 0.0,
    )


def _least_latency_s() -> float:
    """Time a message of 4 bytes between neighbours, in seconds, on the slowest rank, at the best of
    many times. A rank that is held to a share of a core may stand still just then: that is in the
    times of its layers, and no property of the link."""
    return neighbours_s(SMALL_BYTES, SHORT_REPETITIONS).amax(1).min().item()


def neighbours_s(size_bytes: int, repetitions: int) -> Tensor:
    """Time how long each rank takes to send to the next one and receive from the one before.

    Returns:
        Seconds, float64 [repetitions, ranks].
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    return _on_all(_exchange((rank - 1) % size, (rank + 1) % size, size_bytes), repetitions)


def _exchange(source: int | None, target: int | None, size_bytes: int) -> Callable[[], None]:
    """A function that receives a message from one rank while it sends one to another. It does
    nothing without a source and a target."""
    outgoing = torch.ones(size_bytes, dtype=torch.uint8)
    incoming = torch.ones(size_bytes, dtype=torch.uint8)  # ones: its memory is touched

    def exchange() -> None:
        if source is None or target is None:
            return
        receive, send = dist.irecv(incoming, source), dist.isend(outgoing, target)
        for work in (receive, send):
            assert work is not None  # every rank is in the default group
            work.wait()

    return exchange


def _on_all(function: Callable[[], object], repetitions: int) -> Tensor:
    """Time a function on all ranks, with a barrier before each repetition.

    It runs twice before it is timed.

    Returns:
        Seconds of every rank, float64 [repetitions, ranks], the same on all ranks.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    seconds = torch.zeros(repetitions + 2, size, dtype=torch.float64)
    with waiting("all ranks at the calibration", [peer for peer in range(size) if peer != rank]):
        for row in seconds:
            dist.barrier()
            start = time.perf_counter()
            function()
            row[rank] = time.perf_counter() - start
        dist.all_reduce(seconds)
    return seconds[2:]
