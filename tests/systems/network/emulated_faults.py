"""Faults on an emulated network: links that degrade and fail, and other jobs that send.

    began_s = time.monotonic() + 1.0                  # when the ranks begin their first step
    with happening(faults, network, rates, began_s):
        emulate(network, 4, main)                     # a rank waits as `waited_s` says

Seconds of faults are counted from `began_s`, in the clock of `time.monotonic`, which all processes
of a machine share.

[Note: links that fail for a time]
TCP finds out that a link is whole again when it next tries, and it waits longer each time: after an
outage of half a second three nodes stood still for a second. What a transport does so is its own
affair; the simulator's links are whole at once. So a link that fails for a time is held to
FAILED_SHARE of its rate instead: packets wait, and are not lost. One that never works again is cut
off.
"""

import math
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from systems.clusters.faults import Faults, OtherJob
from systems.network.namespaces import Network
from systems.processes import background
from systems.processes.lifetime import die_with_parent

FIRST_PORT = 29600
"""The port at which the first of the other jobs is received; the next one has the next."""
CHUNK_BYTES = 64 * 1024
FAILED_SHARE = 0.02
"""What is left of a link that fails for a time; see the note above. With less, a packet that passes
just before the end would hold up the next ones for long."""
_SO_MAX_PACING_RATE = 47  # linux/asm-generic/socket.h


def waited_s(faults: Faults, rank: int, began_s: float, seconds: float) -> float:
    """How long a rank waits from now on in place of a computation of `seconds`."""
    now_s = max(0.0, time.monotonic() - began_s)
    return faults.computed_s(rank, now_s, seconds) - now_s


@contextmanager
def happening(
    faults: Faults, network: Network, rates_bits_per_s: Sequence[float], began_s: float
) -> Iterator[None]:
    """Let links change and other jobs send, as long as the block lasts.

    Args:
        rates_bits_per_s: the rate of every node's link while nothing is wrong with it.
    """
    changes = sorted(
        change
        for node, rate in enumerate(rates_bits_per_s)
        if any(one.node == node for one in faults.links)
        for change in _changes(node, rate, faults)
    )

    def change_links() -> None:
        for time_s, node, rate in changes:
            time.sleep(max(0.0, began_s + time_s - time.monotonic()))
            network.set_rate(node, rate)

    processes = [_forked(change_links)]
    for number, job in enumerate(faults.jobs):
        processes += _start(network, FIRST_PORT + number, job, began_s)
    try:
        yield
    finally:
        for process in reversed(processes):  # a sender before its receiver
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _changes(node: int, rate_bits_per_s: float, faults: Faults) -> list[tuple[float, int, float]]:
    """(second, node, rate) of every change of a node's link."""
    factors = faults.link_factors(node=node)
    last_s = max(factors)
    return [
        (time_s, node, rate_bits_per_s * (factor if factor or time_s == last_s else FAILED_SHARE))
        for time_s, factor in factors.items()
    ]


def _start(network: Network, port: int, job: OtherJob, began_s: float) -> tuple[int, int]:
    """Start the receiver and the sender of another job; returns their process ids."""

    def receive() -> None:
        network.enter(job.target)
        with socket.create_server((network.address(job.target), port)) as server:
            peer = server.accept()[0]
            while peer.recv(CHUNK_BYTES):
                pass

    def send() -> None:
        network.enter(job.source)
        peer = _connected(network.address(job.target), port)
        if job.bandwidth_bits_per_s is not None:
            rate = round(job.bandwidth_bits_per_s / 8)
            peer.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)
        time.sleep(max(0.0, began_s + job.from_s - time.monotonic()))
        left = math.inf if job.size_bytes is None else job.size_bytes
        chunk = bytes(CHUNK_BYTES)
        while left > 0 and time.monotonic() < began_s + job.end_s:
            left -= peer.send(chunk[: int(min(left, CHUNK_BYTES))])

    return _forked(receive), _forked(send)


def _connected(address: str, port: int) -> socket.socket:
    """A connection to a receiver, which may not listen yet."""
    for _ in range(100):
        with suppress(OSError):
            return socket.create_connection((address, port), timeout=10)
        time.sleep(0.05)
    raise ConnectionError(f"no receiver at {address}:{port}")


def _forked(work: Callable[[], None]) -> int:
    """Do some work in a process that was forked for it; returns its process id."""
    process = os.fork()
    if process:
        return process

    def live() -> None:
        die_with_parent(signal.SIGKILL)
        work()

    background.end_now(background.exit_code_of(live))
