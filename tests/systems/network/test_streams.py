"""Threads that wait for messages have streams of their own, and hand over what they have queued."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sparsepipe.runtime.mailbox import Inbox
from systems.network import streams
from tests.systems.network.fake_cuda import DEFAULT, Stream, current_stream, fake_cuda, gate

CPU = torch.device("cpu")


def test_a_cpu_has_no_streams() -> None:
    with streams.aside(CPU):
        assert streams.mark(CPU) is None
    streams.take_over(None, [torch.ones(1)])
    streams.settle(CPU)


def test_every_thread_has_one_stream_of_its_own() -> None:
    found: list[object] = []
    with fake_cuda():

        def look() -> None:
            with streams.aside(CPU):
                found.extend([current_stream(), streams.own(CPU)])

        for _ in range(2):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        assert current_stream() is DEFAULT
    first, again, second, _ = found
    assert isinstance(first, Stream)
    assert first is again is not second
    assert DEFAULT not in found


def queued(values: list[float], done: list[str]) -> Iterator[Tensor]:
    """Tensors that are there once their stream has been waited for."""
    for value in values:
        tensor = torch.zeros(1)
        tensor.copy_(torch.tensor([value]), non_blocking=True)
        yield tensor
    done.append("all")


def test_what_computes_waits_for_what_the_inbox_has_queued() -> None:
    done: list[str] = []
    with fake_cuda():
        inbox = Inbox(queued([1, 2, 3], done), "numbers", device=CPU, tensors=lambda one: [one])
        for value in (1, 2, 3):
            tensor = inbox.get()
            assert tensor.numpy()[0] == 0  # nobody has waited yet
            gate()  # as a kernel does
            assert tensor.numpy()[0] == value


def test_memory_of_another_stream_is_kept_for_who_takes_it_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with fake_cuda():
        kept: list[tuple[Tensor, object]] = []
        monkeypatch.setattr(Tensor, "record_stream", lambda *one: kept.append(one))
        with streams.aside(CPU):
            event = streams.mark(CPU)
        tensor = torch.ones(1)
        streams.take_over(event, [tensor])
        ((found, stream),) = kept
        assert found is tensor
        assert stream is DEFAULT
