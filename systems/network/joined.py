"""The world of a program that the testbed has not started: a user's script, under any launcher.

    world = join()      # the same one for as long as the process lives
    ...
    leave()             # at the end; else Python's own end does it

If torch.distributed is initialised already its process group is used, and stays when the program
leaves the world.
"""

import atexit
import socket
import sys
from typing import Literal

import torch
import torch.distributed as dist

from systems.environment import LOOPBACK, environment, own_address
from systems.network import meeting
from systems.network.distributed import PATIENCE_S, Backend, World, start, stop
from systems.processes.waiting import Announcer
from systems.processes.watchdog import Watchdog
from systems.schema import InputError

ROLE = "training"
"""The role of every rank until the program says which ones there are."""
TIMEOUT_S = 120.0

_world: World | None = None
_ours = False


def join(
    device: Literal["auto", "cpu", "cuda"] = "auto",
    timeout_s: float = TIMEOUT_S,
    backend: Backend = "gloo",
) -> World:
    """Meet the other ranks, unless this process has done so before.

    Args:
        device: what this rank computes on. "auto" takes a GPU if there is one for each rank, or if
            the process group that is there already has NCCL.
        timeout_s: the longest wait for other ranks, at which the run ends. Only the first call
            says it.
        backend: what carries messages and collectives. Only the first call says it.

    Raises:
        InputError: the variables of the launcher are incomplete, there is no such device, or the
            process group that is there cannot send from it.
        TimeoutError: ranks did not come.
    """
    global _world, _ours
    if _world is None or not dist.is_initialized():
        _ours = not dist.is_initialized()
        if _ours:
            place = environment()
            roles = (ROLE,) * place.world_size
            _world = start(place, roles, timeout_s=timeout_s, device=device, backend=backend)
        else:
            _world = _adopted(device, timeout_s, backend)
        atexit.register(_at_exit)
    return _world


def leave() -> None:
    """Wait for all ranks, and end what `join` has made. All ranks must call this together."""
    global _world
    world, _world = _world, None
    if world is None or not dist.is_initialized():
        return
    if _ours:
        return stop(world)
    world.barrier("the end of the run")
    world.announcer.close()
    world.watchdog.close()


def _at_exit() -> None:
    """Leave at the end of the program, unless an exception ends it: others would wait for this
    rank, or it for them."""
    if getattr(sys, "last_value", None) is None:
        leave()


def _adopted(device: str, timeout_s: float, backend: Backend) -> World:
    """The world of the process group that is there already. Its store stays its own: rank 0 serves
    another one."""
    rank, size = dist.get_rank(), dist.get_world_size()
    backends = str(dist.get_backend_config())
    chosen = _device_for(device, backends)
    hosts: list[str] = [""] * size
    dist.all_gather_object(hosts, socket.gethostname())
    alone = len(set(hosts)) == 1
    address = LOOPBACK if alone else own_address() or socket.gethostname()
    served = meeting.serve(address, 0, timeout_s) if rank == 0 else None
    from_rank_0 = [(address, served.port if served else 0)]
    dist.broadcast_object_list(from_rank_0, src=0)
    watched = meeting.connect(*from_rank_0[0], timeout_s)
    if backend == "nccl" and (chosen.type == "cpu" or "nccl" not in backends):
        raise InputError(
            f"transport=nccl: the process group that is there has the backends {backends}, and "
            f"this rank is on {chosen.type}; leave it out"
        )
    roles = (ROLE,) * size
    return World(
        rank=rank,
        roles=roles,
        device=chosen,
        backend=backend,
        launcher="none",
        store=served or meeting.connect(*from_rank_0[0], timeout_s),
        timeout_s=timeout_s,
        announcer=Announcer(f"rank {rank}", PATIENCE_S),
        watchdog=Watchdog(rank, roles, watched, timeout_s),
        everyone=dist.new_group(backend=backend) if dist.get_backend() != backend else None,
    )


def _device_for(wanted: str, backends: str) -> torch.device:
    """The device of this rank in a process group with these backends, such as "cpu:gloo"."""
    carries = "cuda:nccl" in backends or (wanted == "cuda" and "cuda:gloo" in backends)
    has_gpu = torch.cuda.is_available() and carries
    if wanted == "cuda" and not has_gpu:
        raise InputError(
            f"device=cuda: the process group that is there has the backends {backends}, and a GPU "
            "needs gloo or nccl for CUDA; initialise it with that, or let the testbed do it"
        )
    if has_gpu and wanted != "cpu":
        return torch.device("cuda", torch.cuda.current_device())
    if "cpu:gloo" not in backends:
        raise InputError(
            f"device=cpu: the process group that is there has the backends {backends}, and a CPU "
            "needs gloo; initialise it with that, or let the testbed do it"
        )
    return torch.device("cpu")
