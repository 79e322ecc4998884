"""How a process that torchrun, mpirun or srun has started becomes a rank."""

import atexit
import sys
from functools import cache
from typing import Literal

import torch.distributed as dist

from systems.environment import environment
from systems.network.distributed import World, start, stop
from systems.schema import InputError

Device = Literal["auto", "cpu", "cuda"]


@cache
def join(timeout_s: float, device: Device) -> World:
    """Meet the other ranks; without a launcher this process is a world of its own.

    A process joins once, and leaves when it ends.

    Raises:
        InputError: the process group is there already, or there is no GPU for "cuda".
        TimeoutError: naming the ranks that did not come.
    """
    if dist.is_initialized():
        raise InputError(
            "torch.distributed is initialized: leave out init_process_group; the first pipeline of "
            "a process sets it up, and all pipelines have one timeout_s and one device"
        )
    place = environment()
    world = start(place, ["stage"] * place.world_size, timeout_s=timeout_s, device=device)
    atexit.register(leave, world)
    return world


def leave(world: World) -> None:
    """Leave the world together with the other ranks, unless this process ends with an error."""
    if dist.is_initialized() and getattr(sys, "last_value", None) is None:
        stop(world)
