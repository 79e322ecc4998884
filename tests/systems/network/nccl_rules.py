"""NCCL's rules put over gloo, for ranks on CPUs with the streams of `fake_cuda`.

    with nccl_rules():
        world = start(environment(), roles, timeout_s=60, backend="nccl")
        ...

What is held to, of ProcessGroupNCCL:

- A group's first message of two ranks in one direction blocks both hosts until both have come.
- Messages of two ranks in a group go one after the other, in both directions, in the order of the
  calls; with `eager`, as with a device_id, those of all ranks of the group. A message begins when
  what the caller's current stream had queued before is done.
- A group's first collective blocks the hosts until all ranks of the group have come.
- `Work.wait` makes the caller's current stream wait, and the host goes on.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from queue import SimpleQueue
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from systems.network import distributed
from tests.systems.network.fake_cuda import current_stream, fake_cuda, gate

LIMIT_S = 30.0
"""Whoever waits longer is in a deadlock."""


class DeadlockError(RuntimeError):
    """What is waited for does not come."""


class Work:
    """A message on its way."""

    def __init__(self, what: str, limit_s: float) -> None:
        self._what, self._limit_s = what, limit_s
        self.done = threading.Event()
        self.ready = current_stream().record_event()

    def wait(self) -> bool:
        current_stream().queue(self._wait)
        return True

    def _wait(self) -> None:
        if not self.done.wait(self._limit_s):
            raise DeadlockError(f"NCCL's rules: a stream waits for {self._what}")


class Rules:
    """The groups of this process, and the messages in them."""

    def __init__(self, *, eager: bool, limit_s: float, meeting_s: float) -> None:
        self._eager, self._limit_s, self._meeting_s = eager, limit_s, meeting_s
        self._isend, self._irecv, self._group = dist.isend, dist.irecv, dist.new_group
        self._numbers, self._names = count(), dict[Any, str]()
        self._queues: dict[Any, SimpleQueue[Callable[[], None]]] = {}
        self._met: set[object] = set()

    def new_group(self, ranks: Any = None, *, backend: str | None = None, **options: Any) -> Any:
        group = self._group(ranks, backend="gloo", **options)
        number = next(self._numbers)
        if backend == "nccl":
            self._names[group] = f"group {number}"
        return group

    def isend(self, tensor: Tensor, peer: int, group: Any = None) -> Any:
        return self._message(self._isend, tensor, (dist.get_rank(), peer), peer, group)

    def irecv(self, tensor: Tensor, peer: int, group: Any = None) -> Any:
        return self._message(self._irecv, tensor, (peer, dist.get_rank()), peer, group)

    def collective(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*arguments: Any, group: Any = None, **options: Any) -> Any:
            if group in self._names and group not in self._met:
                self._met.add(group)
                dist.barrier(group)
            gate()
            return call(*arguments, group=group, **options)

        return checked

    def _message(
        self, call: Any, tensor: Tensor, way: tuple[int, int], peer: int, group: Any
    ) -> Any:
        if group not in self._names:  # a group of gloo
            return call(tensor, peer, group=group)
        what = f"{self._names[group]} from rank {way[0]} to rank {way[1]}"
        if what not in self._met:
            self._met.add(what)
            self._meet(what, peer)
        work = Work(f"a message in {what}", self._limit_s)
        key = group if self._eager else (group, peer)
        if key not in self._queues:
            self._queues[key] = SimpleQueue()
            threading.Thread(target=_send_all, args=[self._queues[key]], daemon=True).start()

        def send() -> None:
            work.ready.synchronize()
            call(tensor, peer, group=group).wait()
            work.done.set()

        self._queues[key].put(send)
        return work

    def _meet(self, what: str, peer: int) -> None:
        """Wait until the peer is here, too."""
        store = dist.distributed_c10d._get_default_store()
        store.set(f"NCCL's rules: {what}, {dist.get_rank()}", "here")
        deadline = time.monotonic() + self._meeting_s
        while not store.check([f"NCCL's rules: {what}, {peer}"]):
            if time.monotonic() > deadline:
                raise DeadlockError(f"NCCL's rules: rank {peer} does not come to {what}")
            time.sleep(0.005)


def _send_all(messages: SimpleQueue[Callable[[], None]]) -> None:
    """Send what is queued, in order. An error ends it; whoever waits for a message finds out."""
    while True:
        try:
            messages.get()()
        except RuntimeError:
            return


@contextmanager
def nccl_rules(
    *, eager: bool = False, limit_s: float = LIMIT_S, meeting_s: float = LIMIT_S
) -> Iterator[None]:
    """Put the rules over this process, which then calls `start` with the backend "nccl".

    Args:
        limit_s: how long a stream waits for a message.
        meeting_s: how long a first message waits for the other rank, which may still be starting.
    """
    rules = Rules(eager=eager, limit_s=limit_s, meeting_s=meeting_s)
    cpu = torch.device("cpu")
    initialise = dist.init_process_group
    patched: list[tuple[Any, str, Any]] = [
        (distributed, "choose_device", lambda *_: cpu),
        (dist, "init_process_group", lambda _, **options: initialise("gloo", **options)),
        (dist, "new_group", rules.new_group),
        (dist, "isend", rules.isend),
        (dist, "irecv", rules.irecv),
        *((dist, n, rules.collective(getattr(dist, n))) for n in ("all_reduce", "all_gather")),
    ]
    with fake_cuda(), ExitStack() as stack:
        for one in patched:
            stack.enter_context(mock.patch.object(*one))
        yield
