"""CUDA's streams on a CPU: what is queued on a stream is done when somebody waits for it.

    with fake_cuda():
        ...             # streams.on_gpu is True for every device, torch.cuda.Stream is this one

Copies with `non_blocking=True` are put off, so that data which nobody has waited for is not there.
All other kernels run at once, but modules, backward passes, updates and reads of a number do first
what their thread's current stream has queued, as a GPU would.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from systems.network import gpu_transport, streams

_thread = threading.local()


class Stream:
    """A stream, as the list of what it has not done yet."""

    def __init__(self, device: object = None) -> None:
        self._queued: list[Callable[[], None]] = []
        self._done, self._lock = 0, threading.RLock()

    def queue(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._queued.append(work)

    def record_event(self) -> "Event":
        event = Event()
        event.record(self)
        return event

    def place(self) -> int:
        """The end of the queue."""
        return len(self._queued)

    def wait_event(self, event: "Event") -> None:
        self.queue(event.synchronize)

    def wait_stream(self, other: "Stream") -> None:
        self.wait_event(other.record_event())

    def synchronize(self) -> None:
        self.record_event().synchronize()

    def do(self, end: int) -> None:
        """Do what was queued first, up to number `end`, unless it is done."""
        if self._done >= end:  # another thread may be inside, at something later
            return
        with self._lock:
            while self._done < end:
                self._queued[self._done]()
                self._done += 1


class Event:
    """A place in the queue of a stream, and the time at which the host has recorded it."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None:
        self._stream, self._place, self._s = Stream(), 0, 0.0

    def record(self, stream: Stream | None = None) -> None:
        self._stream, self._s = stream or current_stream(), time.perf_counter()
        self._place = self._stream.place()

    def synchronize(self) -> None:
        self._stream.do(self._place)

    def elapsed_time(self, end: "Event") -> float:
        return 1e3 * (end._s - self._s)


DEFAULT = Stream()
"""The stream of all threads that have not chosen another."""


def current_stream(device: object = None) -> Stream:
    return getattr(_thread, "stream", DEFAULT)


@contextmanager
def on(stream: Stream) -> Iterator[None]:
    before, _thread.stream = current_stream(), stream
    try:
        yield
    finally:
        _thread.stream = before


def gate(*_: object) -> None:
    """Do what this thread's current stream has queued."""
    current_stream().synchronize()


def gated(call: Callable[..., Any]) -> Callable[..., Any]:
    def after_the_queue(*arguments: Any, **options: Any) -> Any:
        gate()
        return call(*arguments, **options)

    return after_the_queue


def put_off(copy: Callable[..., Any]) -> Callable[..., Any]:
    """`Tensor.copy_`, which with `non_blocking` is queued."""

    def copied(self: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if non_blocking:
            current_stream().queue(lambda: copy(self, source))
        else:
            copy(self, source)
        return self

    return copied


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Patch torch's streams, in all threads of this process."""
    patched: list[tuple[Any, str, Any]] = [
        (streams, "on_gpu", lambda device: True),
        (gpu_transport, "_pinned", torch.empty_like),
        (torch.cuda, "Stream", Stream),
        (torch.cuda, "Event", Event),
        (torch.cuda, "current_stream", current_stream),
        (torch.cuda, "stream", on),
        (torch.autograd, "backward", gated(torch.autograd.backward)),
        (Tensor, "copy_", put_off(Tensor.copy_)),
        (Tensor, "tolist", gated(Tensor.tolist)),
        (Tensor, "item", gated(Tensor.item)),
        (Tensor, "record_stream", lambda *_: None),
    ]
    with ExitStack() as stack:
        for one in patched:
            stack.enter_context(mock.patch.object(*one))
        hooks = [register_module_forward_pre_hook(gate), register_optimizer_step_pre_hook(gate)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
