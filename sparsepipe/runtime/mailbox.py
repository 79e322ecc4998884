"""Messages that travel while a rank computes: received ahead of need, sent without waiting.

Sizes differ with every mini-batch, so a message can be received only once its header is read. A
thread for each incoming stream of messages does that; it spends its time waiting, outside of
Python's lock. On a GPU the thread has a CUDA stream of its own, so that nothing which is computed
waits for a message that is not needed yet (`systems.network.streams`).
"""

import queue
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from systems.network import streams
from systems.processes import background
from systems.processes.waiting import waiting

T = TypeVar("T")
CPU = torch.device("cpu")
AHEAD = 2
"""The most messages of a stream that are received before the first of them is taken."""


class Sent(Protocol):
    """A message on its way out."""

    def wait(self) -> None:
        """Block until its memory may be given back."""
        ...


class Inbox(Generic[T]):
    """Runs an iterator on a thread of its own, so that items are there before they are needed."""

    def __init__(
        self,
        arrivals: Iterator[T],
        what: str,
        *,
        ahead: int = AHEAD,
        device: torch.device = CPU,
        tensors: Callable[[T], Iterable[Tensor]] = lambda item: (),
    ) -> None:
        """Start the thread.

        Args:
            what: names the items, for messages that say what a rank waits for.
            ahead: how many items may be there before they are taken; 0 means any number.
            device: where the items are.
            tensors: all tensors of an item.
        """
        self._arrivals, self._what = arrivals, what
        self._device, self._tensors = device, tensors
        self._arrived: queue.Queue[tuple[T, torch.cuda.Event | None] | Exception] = queue.Queue(
            ahead
        )
        self._abandoned = False
        self._thread = background.start(what, self._run, stop=self._abandon)

    def get(self) -> T:
        """The next item; waits until it is there.

        Raises:
            TransportError: what went wrong on the thread.
        """
        with waiting(self._what):
            arrived = self._arrived.get()
        if isinstance(arrived, Exception):
            raise arrived
        item, made = arrived
        streams.take_over(made, self._tensors(item))
        return item

    def close(self) -> bool:
        """Take no more items; returns whether the thread has ended."""
        self._abandon()
        return background.join(self._thread)

    def _run(self) -> None:
        """Run the iterator, on the thread."""
        try:
            with streams.aside(self._device):
                for item in self._arrivals:
                    self._arrived.put((item, streams.mark(self._device)))
                    if self._abandoned:
                        return
        except Exception as error:  # `get` raises it
            self._arrived.put(error)

    def _abandon(self) -> None:
        """Nobody will take more items: make room, so that the thread goes on to its end."""
        self._abandoned = True
        with suppress(queue.Empty):
            while True:
                self._arrived.get_nowait()


class Outbox:
    """Messages on their way out: a thread waits for each, and so keeps its memory until then."""

    def __init__(self, what: str, most: int = 0) -> None:
        """`put` waits while `most` messages are on their way; 0 means any number."""
        self._sent: queue.Queue[Sent | None] = queue.Queue(most)
        self._error: Exception | None = None
        self._abandoned = False
        self._thread = background.start(what, self._run, stop=self._abandon)

    def put(self, sent: Sent) -> None:
        """Keep a message whose sending has begun; waits while there are too many.

        Raises:
            TransportError: an earlier one did not come through.
        """
        self._raise()
        self._sent.put(sent)

    def close(self) -> None:
        """Wait until all messages are through.

        Raises:
            TransportError: one did not come through.
        """
        self._sent.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        """Raise what went wrong on the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        """Wait for one message after the other, on the thread."""
        try:
            while not self._abandoned and (sent := self._sent.get()) is not None:
                sent.wait()
        except Exception as error:  # raised at the next message, or at the end
            self._error = error
            # The rest is taken too, so that no sender waits for room.
            while not self._abandoned and self._sent.get() is not None:
                pass

    def _abandon(self) -> None:
        """Nobody waits for the messages any more: the thread ends after the one it waits for."""
        self._abandoned = True
        with suppress(queue.Full):  # it has more to do, and looks after the next one
            self._sent.put_nowait(None)
