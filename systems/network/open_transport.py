"""Opens the transport that a run asks for."""

from collections.abc import Sequence

from systems.network import streams
from systems.network.distributed import World
from systems.network.gpu_transport import NcclTransport, PinnedTransport
from systems.network.mpi_transport import MpiTransport
from systems.network.transport import TorchTransport, Transport
from systems.schema import InputError


def open_transport(kind: str, world: World, channels: Sequence[str]) -> Transport:
    """Open the transport of this kind: "torch", "nccl" or "mpi". All ranks must open it together.

    "torch" is what carries this world's messages: NCCL if the world has been started with it, else
    gloo, for GPUs through the memory of the host.

    Raises:
        InputError: MPI is asked for on a GPU, or without mpi4py or mpirun; NCCL in a world of gloo.
    """
    if kind == "mpi":
        if world.device.type != "cpu":
            raise InputError("--transport mpi: CPU tensors only; add --device cpu")
        return MpiTransport(world, channels)
    if kind == "nccl" and world.backend != "nccl":
        raise InputError("--transport nccl: the ranks have been started without NCCL")
    if world.backend == "gloo" and not streams.on_gpu(world.device):
        return TorchTransport(world, channels)
    if world.backend == "nccl":
        return NcclTransport(world, channels)
    return PinnedTransport(world, channels)
