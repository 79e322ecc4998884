"""The start of one rank, which waits until all others are there, and the end together."""

import dataclasses
import datetime
import os
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist

from systems.environment import LOOPBACK, Environment
from systems.network import meeting
from systems.processes.waiting import Announcer, waiting
from systems.processes.watchdog import SLACK, Watchdog
from systems.schema import InputError

Backend = Literal["gloo", "nccl"]
"""What carries messages between ranks."""
PATIENCE_S = 10.0
"""A wait longer than this is announced."""
CPU_LAUNCHERS = {
    "emulate": "emulated ranks compute nothing",
    "shape": "ranks of a shaped run compute on shares of this machine's cores",
}
"""The launchers whose ranks are on the CPU, whatever GPUs there are, and why."""
LOBBY = "lobby"
"""The name of the store's part in which ranks meet before they know in which attempt they are."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What a running rank knows of itself and the others."""

    rank: int
    """The number of this rank."""
    roles: tuple[str, ...]
    """The role of every rank, such as "conv" or "fc"."""
    device: torch.device
    """What this rank computes on."""
    backend: Backend
    """What carries messages. gloo carries those of GPUs through the memory of the host."""
    launcher: str
    """What has started the ranks, such as "torchrun"."""
    store: dist.Store
    """The key-value store of this attempt."""
    timeout_s: float
    """A wait for other ranks of this length is a hang, at which the watchdog ends the run."""
    announcer: Announcer
    """Prints long waits of this rank."""
    watchdog: Watchdog
    """Ends this rank where the run hangs."""
    everyone: dist.ProcessGroup | None = None
    """A group of all ranks over `backend`, where the default group is of several backends."""

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return len(self.roles)

    @property
    def backend_timeout(self) -> datetime.timedelta:
        """The time after which a backend gives up by itself; the watchdog ends the rank before."""
        return datetime.timedelta(seconds=SLACK * self.timeout_s)

    def with_roles(self, roles: Sequence[str]) -> "World":
        """The same world for another run, with other roles."""
        return dataclasses.replace(self, roles=tuple(roles))

    def name(self, rank: int) -> str:
        """Name a rank in messages: "rank 3 (fc)"."""
        return f"rank {rank} ({self.roles[rank]})"

    def group(self, ranks: Sequence[int]) -> dist.ProcessGroup | None:
        """Make a process group of these ranks. All ranks of the world must call this together.

        Returns:
            The group. None on ranks that are not in it, and for a group of one, which has nobody to
            send to.
        """
        if len(ranks) < 2:
            return None
        with self.meeting(f"the group of ranks {', '.join(map(str, ranks))}"):
            group = dist.new_group(list(ranks), timeout=self.backend_timeout, backend=self.backend)
        return group if self.rank in ranks else None

    def meeting(self, what: str) -> AbstractContextManager[None]:
        """Mark this rank as waiting for all others while the block runs.

        Args:
            what: what all ranks do together in the block, in words.
        """
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        return waiting(f"all ranks at {what}", others)

    def barrier(self, what: str) -> None:
        """Wait until every rank has come here. A time-out of gloo names the missing ones."""
        with self.meeting(what):
            if self.backend == "gloo":
                dist.monitored_barrier(self.everyone, timeout=self.backend_timeout)
            else:
                dist.barrier(self.everyone)


def start(
    place: Environment,
    roles: Sequence[str],
    *,
    timeout_s: float,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    backend: Backend = "gloo",
) -> World:
    """Meet the other ranks and set up the default process group.

    Args:
        roles: the role of every rank, by rank.
        timeout_s: how long to wait, for the others now and for any message later.
        device: see `choose_device`.
        backend: what carries messages and collectives.

    Raises:
        InputError: roles for another world size, no GPU for "cuda", too few for "nccl", or a
            master's port that is taken.
        TimeoutError: naming the roles and ranks that did not come.
    """
    if len(roles) != place.world_size:
        raise InputError(f"{len(roles)} roles for a world of {place.world_size} ranks")
    if backend == "nccl":
        # A receive that waits fills the hardware queue of its stream; by default there are 8.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    chosen = choose_device(device, place, backend)
    if place.master_address == LOOPBACK:
        meeting.stay_on_loopback()
    store, place = _meet(place, roles, timeout_s)
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("default", store),
        rank=place.rank,
        world_size=place.world_size,
        timeout=datetime.timedelta(seconds=SLACK * timeout_s),
    )
    return World(
        rank=place.rank,
        roles=tuple(roles),
        device=chosen,
        backend=backend,
        launcher=place.launcher,
        store=store,
        timeout_s=timeout_s,
        announcer=Announcer(f"rank {place.rank}", PATIENCE_S),
        watchdog=Watchdog(place.rank, roles, _connect(place, timeout_s), timeout_s),
    )


def choose_device(
    wanted: Literal["auto", "cpu", "cuda"], place: Environment, backend: Backend = "gloo"
) -> torch.device:
    """The device of this rank.

    Args:
        wanted: "auto" takes a GPU if this node has one for every rank, else the CPU. With "cuda",
            ranks share the GPUs that there are.
        backend: NCCL takes one rank a GPU.

    Raises:
        InputError: "cuda" where there is no GPU, or for emulated or shaped ranks; "nccl" where this
            node has fewer GPUs than ranks.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if place.launcher in CPU_LAUNCHERS:
        if wanted == "cuda" or backend == "nccl":
            raise InputError(f"--device cuda: {CPU_LAUNCHERS[place.launcher]}; leave it out")
        return torch.device("cpu")
    enough = count >= place.local_world_size or (count > 0 and place.own_gpu)
    if backend == "nccl" and (wanted == "cpu" or not enough):
        raise InputError(
            f"--transport nccl: {place.local_world_size} ranks on this node and "
            f"{0 if wanted == 'cpu' else count} GPUs to use, and NCCL takes one rank a GPU; "
            "leave --transport out"
        )
    if wanted == "cuda" and not count:
        raise InputError("--device cuda: torch sees no GPU on this node; use --device cpu")
    if wanted == "cpu" or (wanted == "auto" and not enough):
        return torch.device("cpu")
    number = 0 if place.own_gpu else place.local_rank % count
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _meet(
    place: Environment, roles: Sequence[str], timeout_s: float
) -> tuple[dist.Store, Environment]:
    """Connect to the store, and wait until every rank has signed in; long waits are printed.

    torchrun's store may have served earlier attempts, of other ranks, and agents that joined later
    count restarts differently. So rank 0 names each attempt anew, and all is in order once it has
    seen everyone's own sign under that name.

    Returns:
        This attempt's own store, and the place with the attempt's name.
    """
    announcer = Announcer(f"rank {place.rank} ({roles[place.rank]})", PATIENCE_S)
    master = f"{place.master_address}:{place.master_port}"
    serve = place.rank == 0 and not place.agent_store
    try:
        with waiting(f"the master at {master}"):
            lobby = _connect(dataclasses.replace(place, attempt=LOBBY), timeout_s, serve=serve)
    except dist.DistNetworkError as error:
        raise TimeoutError(f"no answer from {master}, {_missing([0], roles)}") from error
    finally:
        announcer.close()
    sign = uuid.uuid4().hex
    if place.rank == 0:
        lobby.set("attempt", sign)
    assert isinstance(lobby.underlying_store, dist.TCPStore)
    place = dataclasses.replace(place, master_port=lobby.underlying_store.port)
    started = announced = time.monotonic()
    missing = [0]
    while True:
        try:
            attempt, missing = _sign_in(lobby, place, sign)
        except dist.DistNetworkError as error:  # its time-out came before ours
            raise TimeoutError(f"the master gave up, {_missing(missing, roles)}") from error
        if attempt is not None:
            place = dataclasses.replace(place, attempt=attempt)
            return _room(place, lobby.underlying_store), place
        now = time.monotonic()
        if now - started > timeout_s:
            raise TimeoutError(f"after {timeout_s:g} s still {_missing(missing, roles)}")
        if now - announced > PATIENCE_S / 2:
            announced = now
            print(f"rank {place.rank}: {_missing(missing, roles)}", file=sys.stderr, flush=True)
        time.sleep(0.05)


def _sign_in(lobby: dist.Store, place: Environment, sign: str) -> tuple[str | None, list[int]]:
    """Sign in to the newest attempt.

    Args:
        sign: what this rank writes to say that it is there; nobody else writes the same.

    Returns:
        The name of the attempt once everyone is in it, else None; and the ranks that are missing.
    """
    if not lobby.check(["attempt"]):
        return None, [0]
    attempt = lobby.get("attempt").decode()
    keys = [f"{attempt}/here/{rank}" for rank in range(place.world_size)]
    lobby.set(keys[place.rank], sign)
    missing = [rank for rank, key in enumerate(keys) if not lobby.check([key])]
    everyone = f"{attempt}/everyone"
    if attempt == sign and not missing:  # this is rank 0
        lobby.set(everyone, " ".join(lobby.get(key).decode() for key in keys))
    if lobby.check([everyone]) and sign in lobby.get(everyone).decode().split():
        return attempt, []
    return None, missing or [0]


def _connect(place: Environment, timeout_s: float, *, serve: bool = False) -> dist.PrefixStore:
    """Connect to the store at the master, and start the store before if `serve`.

    Returns:
        The part of the store that belongs to the attempt of `place`.
    """
    open_store = meeting.serve if serve else meeting.connect
    return _room(place, open_store(place.master_address, place.master_port, timeout_s))


def _room(place: Environment, store: dist.Store) -> dist.PrefixStore:
    """The part of the store that belongs to one attempt."""
    return dist.PrefixStore(f"testbed/{place.attempt}", store)


def _missing(ranks: Sequence[int], roles: Sequence[str]) -> str:
    """Say which ranks are missing, such as "waiting for 1 of 2 fc workers: rank 3"."""
    parts = []
    for role in dict.fromkeys(roles[rank] for rank in ranks):
        gone = [rank for rank in ranks if roles[rank] == role]
        names = ", ".join(f"rank {rank}" for rank in gone)
        parts.append(f"{len(gone)} of {roles.count(role)} {role} workers: {names}")
    return "waiting for " + "; ".join(parts)


def stop(world: World) -> None:
    """Wait for all ranks at the end of the run, then free what `start` has made."""
    world.barrier("the end of the run")
    world.announcer.close()
    world.watchdog.close()
    dist.destroy_process_group()
