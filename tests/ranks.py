"""Real processes for tests: a function run on every rank of a world, over gloo, as torchrun would.

The processes fork from a server that has imported torch once, so a world starts in tenths of a
second on two cores instead of several seconds a rank.
"""

import io
import multiprocessing
import os
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from systems.environment import reserved_port

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch._dynamo", "stanza.train.loop"])


class RankError(AssertionError):
    """A rank raised; the text is its traceback."""


def run_ranks(
    world_size: int, function: Callable[..., Any], *arguments: Any, timeout_s: float = 120
) -> list[Any]:
    """What `function(*arguments)` returns on every rank.

    Raises:
        RankError: the first failure, or a rank that is still running after `timeout_s`.
    """
    with reserved_port() as port:
        processes, pipes = start_ranks(world_size, port, function, *arguments)
        try:
            return _collect(pipes, timeout_s)
        finally:
            for process in processes:
                process.join(timeout=1)
                process.kill()


def start_ranks(
    world_size: int, port: int, function: Callable[..., Any], *arguments: Any
) -> tuple[list[BaseProcess], list[Connection]]:
    """Start `function(*arguments)` on every rank; rank 0 listens at the port. Returns their
    processes, and pipes for what they return."""
    processes: list[BaseProcess] = []
    pipes: list[Connection] = []
    for rank in range(world_size):
        ours, theirs = _context.Pipe(duplex=False)
        process = _context.Process(
            target=_main, args=(rank, world_size, port, theirs, function, arguments), daemon=True
        )
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    return processes, pipes


def _collect(pipes: list[Connection], timeout_s: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in results]
        ready = wait(waiting, timeout=timeout_s)
        if not ready:
            missing = [rank for rank in range(len(pipes)) if rank not in results]
            raise RankError(f"ranks {missing} did not finish within {timeout_s} s")
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = pipes.index(pipe)
            try:
                ok, value = torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False)
            except EOFError:
                raise RankError(f"rank {rank} died without a word") from None
            if not ok:
                raise RankError(f"rank {rank}:\n{value}")
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _main(
    rank: int,
    world_size: int,
    port: int,
    pipe: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    try:
        pipe.send_bytes(_packed((True, function(*arguments))))
    except BaseException:
        pipe.send_bytes(_packed((False, traceback.format_exc())))
        os._exit(1)


def _packed(result: tuple[bool, Any]) -> bytes:
    """The result with its tensors inside: this process ends before the other side reads them."""
    buffer = io.BytesIO()
    torch.save(result, buffer)
    return buffer.getvalue()


def listening(process: int | None = None) -> Counter[str]:
    """The addresses at which a process and its children listen, each as often as they do."""
    found: Counter[str] = Counter()
    for one in family(os.getpid() if process is None else process):
        own = {os.readlink(link) for link in Path(f"/proc/{one}/fd").iterdir() if link.is_symlink()}
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{one}/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and f"socket:[{words[9]}]" in own:
                    found[_address(words[1].partition(":")[0])] += 1
    return found


def _address(text: str) -> str:
    """An address as /proc/net writes it: words of four bytes, in this machine's order."""
    words = [int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, b"".join(words))


def family(process: int) -> list[int]:
    """A process, its children, theirs, and so on."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(one for child in children for one in family(int(child)))]


def ranks_of(folder: Path) -> dict[int, int]:
    """Rank -> process id of the workers of a run, by the names that they give themselves."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            name, _, rank = (process / "comm").read_text().strip().partition(" ")
        except OSError:
            continue
        if str(folder).encode() in command and name == "rank" and rank.isdecimal():
            found[int(rank)] = int(process.name)
    return found
