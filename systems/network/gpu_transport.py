"""Messages between GPUs: through the memory of the host over gloo, or from GPU to GPU over NCCL.

A wait for a message is a wait of the host, on either way: once `Transfer.wait` returns, any stream
may read the buffer. No kernel waits for a message (`systems.network.streams`), so what is true of
ranks on CPUs is true of them here.

    send       kernels of this rank ->  copy to pinned memory  -> gloo ----+
    receive    buffer on the GPU   <-  copy from pinned memory <- gloo <---+

Several ranks may share a GPU over gloo; NCCL takes one rank a GPU. NCCL's rules are these:

1. The first message of two ranks in a group makes their connection, and blocks the host until both
   have come to it, in both directions apart. So all pairs connect when the transport is made.
2. Messages of two ranks in a group, of both directions, go one after the other. So there is a group
   for each direction: a receive that was posted early then holds back no message.
3. In a group that was made with a `device_id`, rule 2 holds for all its ranks together: the receive
   of a header that is not sent yet would hold back the one for the next stage. So the groups here
   are made without it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import combinations
from queue import SimpleQueue

import torch
import torch.distributed as dist
from torch import Tensor

from systems.network import streams
from systems.network.distributed import World
from systems.network.transport import TorchTransport, Transport
from systems.processes import background


@dataclass(frozen=True)
class _Copied:
    """A message on its way to the memory of the host."""

    source: Tensor
    """On the GPU; kept until it is copied."""
    staged: Tensor
    """The copy."""
    copied: torch.cuda.Event
    """Comes when it is there."""
    peer: int
    channel: str
    sent: Future[tuple[Callable[[], None], Tensor]]
    """Gets what waits for the message, and the copy, which gloo reads until then."""


class PinnedTransport(TorchTransport):
    """CUDA tensors over gloo, through pinned memory of the host; CPU tensors as they are.

    Copies run on streams of their own. A thread gives each copy to gloo when it is there, in order,
    so that neither the host nor the GPU waits in `isend`.
    """

    def __init__(self, world: World, channels: Sequence[str]) -> None:
        super().__init__(world, channels)
        self._out = torch.cuda.Stream(world.device)
        self._copies: SimpleQueue[_Copied | None] = SimpleQueue()
        self._thread = background.start("copies to the host", self._send, stop=self._end)

    def _isend(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]:
        if not streams.on_gpu(tensor.device):
            return super()._isend(tensor, peer, channel)
        staged = _pinned(tensor)
        self._out.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(self._out):
            staged.copy_(tensor.detach(), non_blocking=True)
        sent: Future[tuple[Callable[[], None], Tensor]] = Future()
        copied = streams.recorded(self._out)
        self._copies.put(_Copied(tensor, staged, copied, peer, channel, sent))
        return lambda: sent.result(self.world.backend_timeout.total_seconds())[0]()

    def _irecv(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]:
        if not streams.on_gpu(tensor.device):
            return super()._irecv(tensor, peer, channel)
        staged = _pinned(tensor)
        arrived = super()._irecv(staged, peer, channel)
        posted = streams.mark(tensor.device)  # earlier kernels may still read this memory

        def finish() -> None:
            arrived()
            with streams.aside(tensor.device):
                streams.take_over(posted, [tensor])
                tensor.detach().copy_(staged, non_blocking=True)
                streams.settle(tensor.device)

        return finish

    def close(self) -> None:
        """Destroy the process groups."""
        self._end()
        self._thread.join()
        super().close()

    def _end(self) -> None:
        """Let the thread end."""
        self._copies.put(None)

    def _send(self) -> None:
        """Give gloo each message when its copy is there, on the thread."""
        while (message := self._copies.get()) is not None:
            try:
                message.copied.synchronize()
                finish = super()._isend(message.staged, message.peer, message.channel)
                message.sent.set_result((finish, message.staged))
            except Exception as error:  # the wait for the message raises it
                message.sent.set_exception(error)
            del message  # and with it the tensor on the GPU


def _pinned(like: Tensor) -> Tensor:
    """Allocate memory of the host for a tensor, which a GPU copies to and from by itself."""
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)


class NcclTransport(Transport):
    """CUDA tensors from GPU to GPU; each rank has a GPU of its own.

    Each channel has a process group for each direction. All ranks must make it together.
    """

    def __init__(self, world: World, channels: Sequence[str]) -> None:
        super().__init__(world, channels)
        everyone = range(world.world_size)
        self._groups = {
            (channel, upward): world.group(everyone)
            for channel in channels
            for upward in (True, False)
        }
        with world.meeting("the connection of all pairs over NCCL"):
            self._connect()

    def _connect(self) -> None:
        """Send a message between all pairs, in an order in which the first pair that has not met
        can always meet: both of its ranks are done with all pairs before."""
        world = self.world
        probe = torch.zeros(1, dtype=torch.int64, device=world.device)
        for low, high in combinations(range(world.world_size), 2):
            if world.rank not in (low, high):
                continue
            for channel, upward in self._groups:
                if (world.rank == low) == upward:
                    self._isend(probe, high if upward else low, channel)()
                else:
                    self._irecv(probe, low if upward else high, channel)()

    def _isend(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]:
        group = self._groups[channel, self.world.rank < peer]
        return self._finish(dist.isend(tensor, peer, group=group), tensor)

    def _irecv(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]:
        group = self._groups[channel, peer < self.world.rank]
        return self._finish(dist.irecv(tensor, peer, group=group), tensor)

    def _finish(self, work: dist.Work | None, tensor: Tensor) -> Callable[[], None]:
        assert work is not None  # this rank is in the group

        def finish() -> None:
            with streams.aside(self.world.device):
                work.wait()  # this thread's stream waits
                streams.settle(tensor.device)  # and the host for it

        return finish

    def close(self) -> None:
        """Destroy the process groups."""
        for group in self._groups.values():
            if group is not None:
                dist.destroy_process_group(group)
