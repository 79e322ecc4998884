"""A contestant: an engine in a process of its own, which makes a pass whenever it is asked to.

The two processes talk through a pipe. The requests are "prepare", "pass", "map" and "peak", and
each has one answer: seconds, bytes, None, or a string if the work does not fit into memory."""

import multiprocessing
import resource
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from sparsepipe.bench.clouds import task
from sparsepipe.bench.engines import Prepared, prepare
from systems.measure import timed

MAPS = 5
"""How many kernel maps are made and timed."""


class Contestant:
    """One engine at work on one cloud. If the work does not fit into memory, `failure` says so."""

    def __init__(
        self, engine: str, cloud: str, channels: int, threads: int, memory_limit_bytes: float | None
    ) -> None:
        """Start the process and let it prepare the task. `memory_limit_bytes` is how much memory it
        may take beyond what it has at the start."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["torch", "sparsepipe.engine.layers", "sparsepipe.data.load"]
        )
        self._pipe, theirs = context.Pipe()
        arguments = (engine, cloud, channels, threads, memory_limit_bytes, theirs)
        self._process = context.Process(target=_main, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.failure: str | None = None
        self.seconds: list[float] = []
        self._ask("prepare")

    def play(self, patience_s: float) -> None:
        """Make a pass and keep its time, unless two or more passes have taken longer than
        `patience_s` together."""
        tired = len(self.seconds) > 1 and sum(self.seconds) > patience_s
        if self.failure is None and not tired:
            seconds = self._ask("pass")
            self.seconds += [] if seconds is None else [seconds]

    def end(self) -> tuple[float | None, int]:
        """End the process. Returns the seconds to make a kernel map, if the engine has one, and the
        peak of memory in bytes."""
        map_s = None if self.failure else self._ask("map")
        peak_bytes: int = self._ask("peak")
        self._pipe.close()
        self._process.join()
        return map_s, peak_bytes

    def _ask(self, request: str) -> Any:
        """Send a request and wait for its answer. An answer that is a string becomes the `failure`.

        Raises:
            RuntimeError: the process has ended.
        """
        try:
            self._pipe.send(request)
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise RuntimeError(
                f"a benchmark process ended with code {self._process.exitcode}, see above"
            ) from None
        if isinstance(answer, str):
            self.failure = answer
            return None
        return answer


def _main(
    engine: str,
    cloud: str,
    channels: int,
    threads: int,
    memory_limit_bytes: float | None,
    pipe: Connection,
) -> None:
    """The contestant's process: answer requests until the pipe is closed."""
    torch.set_num_threads(threads)
    work = task(cloud, channels)
    before = peak_bytes()
    if memory_limit_bytes is not None:
        _limit_memory(int(memory_limit_bytes))
    prepared: Prepared | None = None
    answer: float | str | None
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            if request == "prepare":
                prepared, answer = prepare(engine, work), None
            elif request == "peak":
                answer = peak_bytes() - before
            else:
                assert prepared is not None
                answer = _timed_pass(prepared) if request == "pass" else _timed_map(prepared)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            answer = f"does not fit in {(memory_limit_bytes or 0) / 1e9:g} GB"
        pipe.send(answer)


def _timed_pass(prepared: Prepared) -> float:
    """The seconds of one pass."""
    started = time.perf_counter()
    prepared.run()
    return time.perf_counter() - started


def _timed_map(prepared: Prepared) -> float | None:
    """The median of the seconds to make a kernel map, or None for an engine that has none."""
    if prepared.make_map is None:
        return None
    return timed(prepared.make_map, repetitions=MAPS).median


def _limit_memory(size: int) -> None:
    """Let this process take at most `size` bytes of address space more than it has. It works on
    Linux only."""
    status = Path("/proc/self/statm")
    if status.is_file():
        most = int(status.read_text().split()[0]) * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def peak_bytes() -> int:
    """The largest amount of memory that this process has had so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
