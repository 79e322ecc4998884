"""An engine in a process of its own, which makes a pass whenever it is told to."""

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
"""Kernel maps that are made and timed."""


class Contestant:
    """One engine at work on one cloud. What does not fit into memory becomes its `failure`."""

    def __init__(
        self, engine: str, cloud: str, channels: int, threads: int, memory_limit_bytes: float | None
    ) -> None:
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
        """Make a pass, unless two or more have taken longer than `patience_s` already."""
        tired = len(self.seconds) > 1 and sum(self.seconds) > patience_s
        if self.failure is None and not tired:
            seconds = self._ask("pass")
            self.seconds += [] if seconds is None else [seconds]

    def end(self) -> tuple[float | None, int]:
        """Seconds of a kernel map, if there is one, and the peak of memory in bytes."""
        map_s = None if self.failure else self._ask("map")
        peak_bytes: int = self._ask("peak")
        self._pipe.close()
        self._process.join()
        return map_s, peak_bytes

    def _ask(self, what: str) -> Any:
        try:
            self._pipe.send(what)
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
    torch.set_num_threads(threads)
    work = task(cloud, channels)
    before = peak_bytes()
    if memory_limit_bytes is not None:
        _limit_memory(int(memory_limit_bytes))
    prepared: Prepared | None = None
    answer: float | str | None
    while True:
        try:
            what = pipe.recv()
        except EOFError:
            return
        try:
            if what == "prepare":
                prepared, answer = prepare(engine, work), None
            elif what == "peak":
                answer = peak_bytes() - before
            else:
                assert prepared is not None
                answer = _timed_pass(prepared) if what == "pass" else _timed_map(prepared)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            answer = f"does not fit in {(memory_limit_bytes or 0) / 1e9:g} GB"
        pipe.send(answer)


def _timed_pass(prepared: Prepared) -> float:
    started = time.perf_counter()
    prepared.run()
    return time.perf_counter() - started


def _timed_map(prepared: Prepared) -> float | None:
    if prepared.make_map is None:
        return None
    return timed(prepared.make_map, repetitions=MAPS).median


def _limit_memory(size: int) -> None:
    """Let this process take at most `size` bytes of address space more than it has (Linux)."""
    status = Path("/proc/self/statm")
    if status.is_file():
        most = int(status.read_text().split()[0]) * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def peak_bytes() -> int:
    """Most memory that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
