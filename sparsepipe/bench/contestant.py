"""A contestant: an engine in a process of its own, which takes a turn whenever it is asked to.

The two processes talk through a pipe. The first request is "prepare", which is answered with the
names of the passes; then come names of passes, answered with what each part took. A string says why
there is no answer. The last request is "peak", answered with a number of bytes."""

import multiprocessing
import resource
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from sparsepipe.bench.engines import ENGINES
from sparsepipe.bench.passes import Lap, Pass, turn
from sparsepipe.bench.task import Task
from systems.measure import peak_memory_bytes

PRELOADED = ["torch", "sparsepipe.bench.engines", "sparsepipe.engine.layers"]
"""What the server that forks the processes imports once for all."""


class Contestant:
    """One engine at work on one task. If it fails, `failure` says why."""

    def __init__(
        self,
        engine: str,
        task: Task,
        device: str,
        threads: int,
        memory_limit_bytes: float | None = None,
    ) -> None:
        """Start the process and let it prepare the task. `memory_limit_bytes` is how much memory it
        may take beyond what it has at the start."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._pipe, theirs = context.Pipe()
        arguments = (engine, task, device, threads, memory_limit_bytes, theirs)
        self._process = context.Process(target=_main, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.failure: str | None = None
        self.laps: dict[str, list[Lap]] = defaultdict(list)
        self._taken_s: dict[str, list[float]] = defaultdict(list)
        self._passes: tuple[str, ...] = self._ask("prepare") or ()

    def play(self, name: str, patience_s: float) -> None:
        """Take a turn with a pass and keep its laps, if the engine has such a pass, unless three
        or more turns have taken longer than `patience_s` together."""
        taken_s = self._taken_s[name]
        tired = len(taken_s) > 2 and sum(taken_s) > patience_s
        if self.failure is not None or tired or name not in self._passes:
            return
        laps: dict[str, Lap] | None = self._ask(name)
        if laps is not None:
            for part, lap in laps.items():
                self.laps[part].append(lap)
            taken_s.append(sum(lap.wall_s for lap in laps.values()))

    def end(self) -> int:
        """End the process. Returns the most memory in bytes that the task took; 0 if the process
        has ended before."""
        peak_bytes: int = self._ask("peak") or 0
        self._pipe.close()
        self._process.join()
        return peak_bytes

    def _ask(self, request: str) -> Any:
        """Send a request and wait for its answer. An answer that is a string becomes the `failure`,
        and so does the end of the process, by which libraries fail too."""
        try:
            self._pipe.send(request)
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            answer = f"its process ended with code {self._process.exitcode}"
        if isinstance(answer, str):
            self.failure = answer
            return None
        return answer


def _main(
    engine: str,
    task: Task,
    device: str,
    threads: int,
    memory_limit_bytes: float | None,
    pipe: Connection,
) -> None:
    """The contestant's process: answer requests until the last one, or until the pipe is closed."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False  # as nobody else does by default
    task = task.to(device)
    before = peak_memory_bytes(task.device)
    if memory_limit_bytes is not None:
        _limit_memory(int(memory_limit_bytes))
    passes: dict[str, Pass] = {}
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        if request == "peak":
            pipe.send(peak_memory_bytes(task.device) - before)
            return
        try:
            answer: Any
            if request == "prepare":
                passes.update(ENGINES[engine].passes(task))
                answer = tuple(passes)
            else:
                answer = turn(passes[request], task.device)
        except Exception as error:  # other people's libraries fail in their own ways
            answer = _reason(error, memory_limit_bytes)
        pipe.send(answer)


def _reason(error: Exception, memory_limit_bytes: float | None) -> str:
    """Why an engine has no times, in a line."""
    if isinstance(error, MemoryError) or "memory" in str(error):
        limit = memory_limit_bytes
        return "does not fit in memory" if limit is None else f"does not fit in {limit / 1e9:g} GB"
    said = str(error).strip().splitlines() or [""]
    return f"fails: {type(error).__name__}: {said[0]}"


def _limit_memory(size: int) -> None:
    """Let this process take at most `size` bytes of address space more than it has. It works on
    Linux only."""
    status = Path("/proc/self/statm")
    if status.is_file():
        most = int(status.read_text().split()[0]) * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
