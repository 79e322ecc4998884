"""CUDA streams of the threads that send and receive, so that no kernel waits for a message.

A GPU works through a stream in order. Were a thread to wait for a message on the stream that
computes, all that is computed later would wait with it, also what the sender of that message needs
first. So every thread that waits does it on a stream of its own, and the host learns of the end:

    with streams.aside(device):             # this thread's own stream; on a CPU nothing happens
        values = receive()
        event = streams.mark(device)        # after all that has been queued for the values
    ...                                     # in the thread that computes:
    streams.take_over(event, tensors)       # its stream goes on after that
"""

import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_own = threading.local()


def on_gpu(device: torch.device) -> bool:
    """Whether a device has streams."""
    return device.type == "cuda"


def own(device: torch.device) -> torch.cuda.Stream:
    """The stream of this thread on a GPU, made at its first use; nothing is computed on it."""
    streams: dict[torch.device, torch.cuda.Stream] = _own.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)
    return streams[device]


def aside(device: torch.device) -> AbstractContextManager[object]:
    """Let this thread queue its work on its own stream, as long as the block lasts."""
    return torch.cuda.stream(own(device)) if on_gpu(device) else nullcontext()


def mark(device: torch.device) -> torch.cuda.Event | None:
    """An event that comes after all that this thread's current stream has queued; None on a CPU."""
    return recorded(torch.cuda.current_stream(device)) if on_gpu(device) else None


def recorded(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """An event after all that a stream has queued. Who waits for it sleeps, and does not ask again
    and again."""
    event = torch.cuda.Event(blocking=True)
    event.record(stream)
    return event


def settle(device: torch.device) -> None:
    """Let the host wait until this thread's current stream has done all that it was given."""
    event = mark(device)
    if event is not None:
        event.synchronize()


def take_over(event: torch.cuda.Event | None, tensors: Iterable[Tensor]) -> None:
    """Let what this thread queues from now on wait for `event`, and use `tensors` of another
    stream: their memory is given to nobody before this stream is done with it."""
    if event is None:
        return
    for tensor in tensors:
        stream = torch.cuda.current_stream(tensor.device)
        stream.wait_event(event)
        tensor.record_stream(stream)
