"""Reads the launcher's environment variables, which say which rank this process is.

Reads the variables of torchrun, which others set as well, then of MPI (Open MPI, MPICH), then of
SLURM; without any, this process is a world of one.
"""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

from systems.schema import InputError

LOOPBACK = "127.0.0.1"
"""The address of the master where all ranks are on one machine; no other machine can reach it."""
SLURM_PORTS = range(20000, 32000)
"""The ports of SLURM's jobs, by their numbers: below those that Linux gives to connections."""
_reserved = ExitStack()


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The place of this process in the world, as its launcher has told it."""

    launcher: Literal[
        "torchrun", "deepspeed", "local", "mpirun", "slurm", "emulate", "shape", "none"
    ]
    """What has started this process; "none": no launcher."""
    rank: int
    """Its number among all ranks."""
    world_size: int
    """The number of all ranks."""
    local_rank: int
    """Its number among the ranks of this machine."""
    local_world_size: int
    """The number of ranks on this machine."""
    master_address: str
    """The machine that keeps the key-value store."""
    master_port: int
    """The port at which the store listens there; for a world of one it may be 0, any that is
    free."""
    attempt: str = "0"
    """torchrun's restart count, "0" at first; see `systems.network.distributed` for its name
    later."""
    run_id: str = ""
    """How torchrun calls the run, in all attempts alike."""
    elastic: bool = False
    """Whether torchrun starts the ranks again when one is lost, perhaps fewer of them."""
    agent_store: bool = False
    """Whether torchrun's agent serves the store already."""
    own_gpu: bool = False
    """Whether the launcher shows each rank of this machine GPUs of its own and no others."""


def environment(variables: Mapping[str, str] = os.environ) -> Environment:
    """Read the variables of the launcher; without any, this process is a world of one.

    Raises:
        InputError: the variables of a launcher are incomplete, or not numbers.
    """
    try:
        if "TORCHELASTIC_RUN_ID" in variables or "LOCAL_RANK" in variables:
            return _torchrun(variables)
        # SLURM's own PMI sets PMI_RANK too; MPICH's mpirun is known by its local rank.
        if "OMPI_COMM_WORLD_RANK" in variables or "MPI_LOCALRANKID" in variables:
            return _mpi(variables)
        if "SLURM_PROCID" in variables and int(variables.get("SLURM_NTASKS", "1")) > 1:
            return _slurm(variables)
    except KeyError as error:
        raise InputError(
            f"the launcher did not set {error}; set it or start with torchrun"
        ) from None
    except ValueError as error:
        raise InputError(f"a variable of the launcher is not a number: {error}") from None
    return Environment(
        launcher="none",
        rank=0,
        world_size=1,
        local_rank=0,
        local_world_size=1,
        master_address=LOOPBACK,
        master_port=0,
    )


def _master(address: str, *, all_here: bool) -> str:
    """The master's address; the launcher's name for it need not resolve if all ranks are here."""
    return LOOPBACK if all_here or address == "localhost" else address


def _torchrun(variables: Mapping[str, str]) -> Environment:
    """The place that torchrun's variables say; DeepSpeed's launcher and our own set them too."""
    world_size = int(variables["WORLD_SIZE"])
    # DeepSpeed's launcher says LOCAL_SIZE. Where nobody says it, the other ranks may be anywhere.
    local_size = variables.get("LOCAL_WORLD_SIZE") or variables.get("LOCAL_SIZE")
    all_here = local_size is not None and int(local_size) == world_size
    return Environment(
        launcher=_who_sets_torchruns(variables),
        rank=int(variables["RANK"]),
        world_size=world_size,
        local_rank=int(variables["LOCAL_RANK"]),
        local_world_size=int(local_size or world_size),
        master_address=_master(variables["MASTER_ADDR"], all_here=all_here),
        master_port=int(variables["MASTER_PORT"]),
        attempt=variables.get("TORCHELASTIC_RESTART_COUNT", "0"),
        run_id=variables.get("TORCHELASTIC_RUN_ID", ""),
        elastic=variables.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0",
        agent_store=variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _who_sets_torchruns(variables: Mapping[str, str]) -> Literal["torchrun", "deepspeed", "local"]:
    """Find out which launcher has set torchrun's variables."""
    if "TORCHELASTIC_RUN_ID" in variables:
        return "torchrun"
    return "deepspeed" if "CROSS_RANK" in variables else "local"


def _mpi(variables: Mapping[str, str]) -> Environment:
    """The place that the variables of Open MPI or MPICH say."""
    open_mpi = "OMPI_COMM_WORLD_RANK" in variables
    prefix = "OMPI_COMM_WORLD_" if open_mpi else "PMI_"
    local_rank = "OMPI_COMM_WORLD_LOCAL_RANK" if open_mpi else "MPI_LOCALRANKID"
    local_size = "OMPI_COMM_WORLD_LOCAL_SIZE" if open_mpi else "MPI_LOCALNRANKS"
    rank, world_size = int(variables[f"{prefix}RANK"]), int(variables[f"{prefix}SIZE"])
    local_world_size = int(variables[local_size])
    address, port = _agree_on_master(rank, variables)
    return Environment(
        launcher="mpirun",
        rank=rank,
        world_size=world_size,
        local_rank=int(variables[local_rank]),
        local_world_size=local_world_size,
        master_address=_master(address, all_here=local_world_size == world_size),
        master_port=port,
    )


def _agree_on_master(rank: int, variables: Mapping[str, str]) -> tuple[str, int]:
    """Rank 0's address and a free port of it, told to all over MPI unless the user has set them."""
    if "MASTER_ADDR" in variables and "MASTER_PORT" in variables:
        return variables["MASTER_ADDR"], int(variables["MASTER_PORT"])
    from mpi4py import MPI

    address = variables.get("MASTER_ADDR", socket.gethostname())
    port = int(variables.get("MASTER_PORT") or (free_port() if rank == 0 else 0))
    address, port = MPI.COMM_WORLD.bcast((address, port) if rank == 0 else None, root=0)
    return address, port


def _slurm(variables: Mapping[str, str]) -> Environment:
    """The place that SLURM's variables say."""
    world_size = int(variables["SLURM_NTASKS"])
    # "4", "4(x2)" or "4,3": tasks of each node
    local_world_size = int(re.split(r"\D", variables["SLURM_TASKS_PER_NODE"])[0])
    address = variables.get("MASTER_ADDR") or variables["SLURM_LAUNCH_NODE_IPADDR"]
    visible = [gpu for gpu in variables.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    on_node = int(variables.get("SLURM_GPUS_ON_NODE", "0"))
    return Environment(
        launcher="slurm",
        rank=int(variables["SLURM_PROCID"]),
        world_size=world_size,
        local_rank=int(variables["SLURM_LOCALID"]),
        local_world_size=local_world_size,
        master_address=_master(address, all_here=local_world_size == world_size),
        # The same on every rank and different for jobs that share a node.
        master_port=int(
            variables.get(
                "MASTER_PORT", SLURM_PORTS[int(variables["SLURM_JOB_ID"]) % len(SLURM_PORTS)]
            )
        ),
        # Bound tasks (--gpus-per-task, --gpu-bind) see fewer GPUs than the node has for the job.
        own_gpu=0 < len(visible) < local_world_size <= on_node,
    )


@contextmanager
def reserved_port() -> Iterator[int]:
    """A TCP port at which nothing listens, and that nobody else gets while the block runs.

    Ranks listen some time after their port was chosen. Meanwhile it must not be given to another
    program, nor to a connection that leaves this machine. So a socket is bound to it that does not
    listen: then the kernel gives the port to nobody, and only who names it, and sets SO_REUSEADDR
    as servers do, may listen there.
    """
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("", 0))
        yield int(keeper.getsockname()[1])


def free_port() -> int:
    """The same, as long as this process lives."""
    return _reserved.enter_context(reserved_port())


def own_address() -> str | None:
    """The address that this machine's own name resolves to; None if it does not resolve."""
    try:
        return str(socket.getaddrinfo(socket.gethostname(), None)[0][4][0])
    except OSError:
        return None


def available_cores() -> int:
    """The number of cores of this machine on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_per_rank(world_size: int) -> int:
    """Share out the cores: returns how many threads each of `world_size` ranks of this machine
    gets."""
    return max(1, (os.cpu_count() or 1) // world_size)
