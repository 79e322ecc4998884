"""An emulated cluster: ranks on this machine, each a node of its own behind a shaped link.

    code = emulate(network, main)      # main(place) runs on every rank, in a forked process

The caller has imported what the ranks need, so that eleven of them start in a second. Ranks die
with the process that started them, and with them the network (see systems.network.namespaces).
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from systems.environment import Environment
from systems.network.namespaces import INTERFACE, Network
from systems.processes import background
from systems.processes.lifetime import die_with_parent
from systems.processes.supervise import wait_for_ranks

PORT = 29500
"""The port of the store. It is free: the master has a namespace of its own."""
PRIORITY = 5
"""The priority of ranks as real-time processes, which answer messages at once.

They take turns (SCHED_RR). Under SCHED_FIFO a thread runs until it waits, and gloo's threads do not
always wait: one that finds a connection locked asks again and again. On the core of the thread that
holds the lock it would ask for ever, and the watchdog would never run.
"""

LAUNCHER = "SYSTEMS_TESTBED_LAUNCHER"
"""The variable that tells processes of an emulated cluster the process id of their launcher."""

RankMain = Callable[[Environment], None]
"""What a rank does, given its place in the world."""


def emulate(network: Network, world_size: int, main: RankMain) -> int:
    """Run `main` on every rank, one a node; returns the exit code of the rank that failed first.

    A signal to this process ends them all, and is then raised here as KeyboardInterrupt or
    SystemExit.
    """
    previous = {s: signal.signal(s, _interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    running: dict[int, int] = {}
    try:
        for rank in range(world_size):
            sys.stdout.flush()
            running[os.fork() or _rank(network, rank, world_size, main)] = rank
        return wait_for_ranks(running)
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for process in running:
            os.waitpid(process, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _rank(network: Network, rank: int, world_size: int, main: RankMain) -> NoReturn:
    """Run one rank in this process, which was forked for it, and end the process."""

    def live() -> None:
        die_with_parent(signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        network.enter(rank)
        with suppress(PermissionError):  # works without, less precisely
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(PRIORITY))
        os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
        main(place(network, rank, world_size))

    background.end_now(background.exit_code_of(live))


def place(network: Network, rank: int, world_size: int) -> Environment:
    """The place of a rank, as a launcher's variables would say it: every rank has its own node."""
    return Environment(
        launcher="emulate",
        rank=rank,
        world_size=world_size,
        local_rank=0,
        local_world_size=1,
        master_address=network.address(0),
        master_port=PORT,
    )


def leftovers() -> list[int]:
    """The process ids of what is left of emulated clusters whose launcher is gone."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or another user's
            continue
        launchers = [v for v in variables if v.startswith(f"{LAUNCHER}=".encode())]
        if launchers and not Path("/proc", launchers[0].partition(b"=")[2].decode()).exists():
            found.append(int(folder.name))
    return found


def clean() -> int:
    """Kill the processes that are left of emulated clusters; returns how many there were.

    Their networks end with them.
    """
    found = leftovers()
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(found)
