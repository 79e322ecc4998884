"""A cluster on this machine: ranks, each a node of its own behind a shaped link.

    code = emulate(network, 4, main)      # main(place) runs on every rank, in a forked process

Emulated and shaped runs have their ranks from here. The caller has imported what the ranks need, so
that eleven of them start in a second. Ranks die with the process that started them, and with them
the network (see systems.network.namespaces).
"""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from systems.environment import Environment
from systems.network.namespaces import INTERFACE, Network
from systems.processes.supervise import run_forked

PORT = 29500
"""The port of the store. It is free: the master has a namespace of its own."""
PRIORITY = 5
"""The priority of ranks as real-time processes, which answer messages at once.

They take turns (SCHED_RR). Under SCHED_FIFO a thread runs until it waits, and gloo's threads do not
always wait: one that finds a connection locked asks again and again. On the core of the thread that
holds the lock it would ask for ever, and the watchdog would never run.
"""

LAUNCHER = "SYSTEMS_TESTBED_LAUNCHER"
"""The variable that tells processes of such a cluster the process id of their launcher."""

RankMain = Callable[[Environment], None]
"""What a rank does, given its place in the world."""


@dataclass(frozen=True)
class Beginning:
    """What a rank has to know before it begins."""

    network: Network
    world_size: int
    launcher: Literal["emulate", "shape"]
    settle: Callable[[int], None]

    def place(self, rank: int) -> Environment:
        """The place of a rank, as a launcher's variables would say it: every rank has its own
        node."""
        return Environment(
            launcher=self.launcher,
            rank=rank,
            world_size=self.world_size,
            local_rank=0,
            local_world_size=1,
            master_address=self.network.address(0),
            master_port=PORT,
        )


def answer_at_once(rank: int) -> None:
    """Give this process, a rank, the priority of emulated ones."""
    with suppress(PermissionError):  # works without, less precisely
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))


def emulate(
    network: Network,
    world_size: int,
    main: RankMain,
    *,
    launcher: Literal["emulate", "shape"] = "emulate",
    settle: Callable[[int], None] = answer_at_once,
) -> int:
    """Run `main` on every rank, one a node; returns the exit code of the rank that failed first.

    A signal to this process ends all of them, and is then raised here as SystemExit.

    Args:
        launcher: what a rank calls that which has started it.
        settle: is called with the number of a rank in its process, before `main`.
    """
    begin = Beginning(network, world_size, launcher, settle)
    return run_forked(world_size, partial(_live, begin, main))


def _live(begin: Beginning, main: RankMain, rank: int) -> None:
    """Be a rank, in a process that was forked for it."""
    begin.network.enter(rank)
    begin.settle(rank)
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    main(begin.place(rank))


def leftovers() -> list[int]:
    """The process ids of what is left of clusters whose launcher is gone."""
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or another user's
            continue
        launchers = [v for v in variables if v.startswith(f"{LAUNCHER}=".encode())]
        if launchers and not Path("/proc", launchers[0].partition(b"=")[2].decode()).exists():
            processes.append(int(folder.name))
    return processes


def clean() -> int:
    """Kill the processes that are left of clusters; returns how many there were.

    Their networks end with them.
    """
    processes = leftovers()
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(processes)
