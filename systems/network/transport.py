"""Point-to-point messages between ranks, over torch.distributed or over MPI, one interface.

    transfer = transport.irecv(buffer, peer=3, channel="gradient")
    ...
    transfer.wait()

A channel is a stream of messages of its own: within it, messages between two ranks arrive in the
order they were sent; between channels nothing is ordered, and a large message in one does not hold
up a small one in another. Every wait has a time-out, and its error names the message and the peer;
systems.processes.watchdog comes before it, and shows what all ranks do. Tensors of GPUs travel as
systems.network.gpu_transport says.
"""

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from systems.network import streams
from systems.network.distributed import World
from systems.processes.waiting import waiting

Slot = queue.Queue[tuple[Tensor, "torch.cuda.Event | None"]]
"""A message of a rank to itself, and what comes when it is there."""


class TransportError(RuntimeError):
    """A message did not come through: its peer is gone, or the time-out has passed."""


class Transfer:
    """A message on its way. `wait` returns once the buffer may be read (or written) again."""

    def __init__(
        self, what: str, finish: Callable[[], None], world: World, peers: Sequence[int] = ()
    ) -> None:
        self._what, self._finish, self._world, self._peers = what, finish, world, peers
        self._done = False

    def wait(self) -> None:
        """Block until done; at once if it has been waited for already.

        Raises:
            TransportError: naming the message and the peer.
        """
        if self._done:  # gloo would wait for a second message
            return
        started = time.monotonic()
        with waiting(self._what, self._peers):
            try:
                self._finish()
                self._done = True
            except Exception as error:
                lasted_s = time.monotonic() - started
                raise _explained(error, self._what, self._world, lasted_s) from error


def _explained(error: Exception, what: str, world: World, lasted_s: float) -> TransportError:
    me = world.name(world.rank)
    if lasted_s < 0.9 * world.backend_timeout.total_seconds():
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return TransportError(f"{me}: {what} failed, the peer is gone ({reason})")
    return TransportError(f"{me}: {what} timed out after {lasted_s:.0f} s")


class Transport(ABC):
    """Messages between this rank and others, its peers.

    `sent_bytes` and `received_bytes` count the payload by peer. A message of a rank to itself is
    handed over in memory and not counted: no wire carries it.
    """

    def __init__(self, world: World, channels: Sequence[str]) -> None:
        self.world = world
        self.sent_bytes = [0] * world.world_size
        self.received_bytes = [0] * world.world_size
        self._lock = threading.Lock()
        # Messages to itself: those sent that nobody awaits yet, and those awaited but not yet sent.
        self._own_sent: dict[str, deque[Slot]] = {name: deque() for name in channels}
        self._own_awaited: dict[str, deque[Slot]] = {name: deque() for name in channels}

    @property
    def host_device(self) -> torch.device:
        """The device on which a message lies best that the host itself reads: the host's memory, if
        it can travel from there."""
        return self.world.device if self.world.backend == "nccl" else torch.device("cpu")

    def isend(self, tensor: Tensor, peer: int, channel: str) -> Transfer:
        """Start sending a contiguous tensor; leave it unchanged until `wait` returns.

        Raises:
            TransportError: the peer is known to be gone.
        """
        self._check(tensor, channel)
        if peer == self.world.rank:
            slot = self._slot(self._own_awaited[channel], self._own_sent[channel])
            slot.put((tensor.detach().clone(), streams.mark(tensor.device)))
            return Transfer("message to itself", lambda: None, self.world)
        with self._lock:
            self.sent_bytes[peer] += tensor.nbytes
        what = f"{channel} ({tensor.nbytes:,} bytes) to {self.world.name(peer)}"
        return self._started(what, peer, lambda: self._isend(tensor, peer, channel))

    def irecv(self, tensor: Tensor, peer: int, channel: str) -> Transfer:
        """Start receiving into a contiguous tensor of the message's very size and dtype.

        Raises:
            TransportError: the peer is known to be gone.
        """
        self._check(tensor, channel)
        if peer == self.world.rank:
            return Transfer(f"{channel} from itself", self._take(tensor, channel), self.world)
        with self._lock:
            self.received_bytes[peer] += tensor.nbytes
        what = f"{channel} ({tensor.nbytes:,} bytes) from {self.world.name(peer)}"
        return self._started(what, peer, lambda: self._irecv(tensor, peer, channel))

    def _started(self, what: str, peer: int, start: Callable[[], Callable[[], None]]) -> Transfer:
        try:
            return Transfer(what, start(), self.world, [peer])
        except TransportError:
            raise
        except RuntimeError as error:
            raise _explained(error, what, self.world, lasted_s=0) from error

    def _check(self, tensor: Tensor, channel: str) -> None:
        if channel not in self._own_sent:
            raise ValueError(f"channel {channel!r}: not one of {', '.join(self._own_sent)}")
        if not tensor.is_contiguous():
            raise ValueError(f"channel {channel!r}: the tensor is not contiguous")

    def _take(self, tensor: Tensor, channel: str) -> Callable[[], None]:
        slot = self._slot(self._own_sent[channel], self._own_awaited[channel])

        def finish() -> None:
            message, made = slot.get(timeout=self.world.backend_timeout.total_seconds())
            streams.take_over(made, [message])
            tensor.copy_(message)
            streams.settle(tensor.device)

        return finish

    def _slot(self, ready: deque[Slot], new: deque[Slot]) -> Slot:
        """The slot in which the nth message to itself that was sent meets the nth that is awaited.

        Args:
            ready: slots that the other side has made already; the first one is taken.
            new: where a new slot is put for the other side, if there is none.
        """
        with self._lock:
            if ready:
                return ready.popleft()
            new.append(queue.Queue())
            return new[-1]

    @abstractmethod
    def close(self) -> None:
        """Free the channels, once no message is on its way. All ranks must close together."""

    @abstractmethod
    def _isend(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]: ...

    @abstractmethod
    def _irecv(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]: ...


class Prefixed(Transport):
    """The channels of another transport whose names begin with `prefix`. Here their names are what
    follows the prefix."""

    def __init__(self, transport: Transport, prefix: str) -> None:
        self.world, self._transport, self._prefix = transport.world, transport, prefix
        self.sent_bytes, self.received_bytes = transport.sent_bytes, transport.received_bytes

    def isend(self, tensor: Tensor, peer: int, channel: str) -> Transfer:
        """See Transport."""
        return self._transport.isend(tensor, peer, self._prefix + channel)

    def irecv(self, tensor: Tensor, peer: int, channel: str) -> Transfer:
        """See Transport."""
        return self._transport.irecv(tensor, peer, self._prefix + channel)

    def close(self) -> None:
        """Do nothing: the other transport closes the channels."""

    def _isend(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]:
        return self._transport._isend(tensor, peer, self._prefix + channel)

    def _irecv(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]:
        return self._transport._irecv(tensor, peer, self._prefix + channel)


class TorchTransport(Transport):
    """Over gloo, for CPU tensors.

    Each channel is a process group with connections of its own. All ranks must make it together.
    """

    def __init__(self, world: World, channels: Sequence[str]) -> None:
        super().__init__(world, channels)
        everyone = range(world.world_size)
        self._groups = {name: world.group(everyone) for name in channels}

    def _isend(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]:
        return self._finish(dist.isend(tensor, peer, group=self._groups[channel]))

    def _irecv(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]:
        return self._finish(dist.irecv(tensor, peer, group=self._groups[channel]))

    def close(self) -> None:
        """Destroy the process groups."""
        for group in self._groups.values():
            if group is not None:
                dist.destroy_process_group(group)

    def _finish(self, work: dist.Work | None) -> Callable[[], None]:
        if work is None:
            raise TransportError("torch.distributed gave no work: this rank is not in the group")
        return lambda: void(work.wait(self.world.backend_timeout))


def void(_: object) -> None:
    """Ignore a value, where a function must return nothing."""
