"""Messages over MPI, between ranks that mpirun has started."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from systems.mpi import import_mpi
from systems.network.distributed import World
from systems.network.transport import Transport
from systems.schema import InputError


class MpiTransport(Transport):
    """Over mpi4py, for ranks that mpirun has started: CPU tensors of any dtype.

    Every channel is a communicator of its own.
    """

    SPIN_S = 2e-4
    """How long a wait polls without sleeping. Then it sleeps between polls, because there may be
    more ranks than cores."""

    def __init__(self, world: World, channels: Sequence[str]) -> None:
        super().__init__(world, channels)
        MPI = import_mpi()
        if MPI.COMM_WORLD.Get_size() != world.world_size:
            raise InputError(
                f"--transport mpi: MPI sees {MPI.COMM_WORLD.Get_size()} of {world.world_size} "
                "ranks; start them with mpirun"
            )
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise InputError("--transport mpi: this MPI is not thread-safe; install Open MPI 5")
        self._communicators = {name: MPI.COMM_WORLD.Dup() for name in channels}

    def _isend(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]:
        return self._finish(self._communicators[channel].Isend(_as_bytes(tensor), dest=peer))

    def _irecv(self, tensor: Tensor, peer: int, channel: str) -> Callable[[], None]:
        return self._finish(self._communicators[channel].Irecv(_as_bytes(tensor), source=peer))

    def close(self) -> None:
        """Free the communicators."""
        for communicator in self._communicators.values():
            communicator.Free()

    def _finish(self, request: Any) -> Callable[[], None]:
        def finish() -> None:
            started = time.monotonic()
            while not request.Test():
                lasted_s = time.monotonic() - started
                if lasted_s > self.world.backend_timeout.total_seconds():
                    raise TimeoutError("MPI request not complete")
                if lasted_s > self.SPIN_S:
                    time.sleep(self.SPIN_S)

        return finish


def _as_bytes(tensor: Tensor) -> Any:
    """The memory of a tensor as bytes: MPI does not know all dtypes, such as bfloat16."""
    return tensor.reshape(-1).view(torch.uint8).numpy()
