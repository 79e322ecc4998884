"""Starts ranks as plain processes of this machine, for `testbed run --launcher local`:

    python -m launch.launchers.local WORLD_SIZE worker ...

There is no agent and no rendezvous. Every rank gets the environment variables that torchrun would
set, and the first rank that fails ends all of them.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from launch.streams import outlive_readers
from systems.environment import free_port
from systems.processes.supervise import wait_for_ranks


def main(arguments: Sequence[str]) -> None:
    """Start the ranks and wait for them; exit with the code of the rank that failed first."""
    size, *worker = arguments
    code = run_processes(int(size), [sys.executable, "-m", "launch", *worker])
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def run_processes(world_size: int, command: Sequence[str]) -> int:
    """Run a command once for every rank; returns the exit code of the rank that failed first.

    SIGTERM to this process and Ctrl-C end all of them.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    port, running = free_port(), dict[int, int]()
    try:
        for rank in range(world_size):
            place = {**os.environ, **variables(rank, world_size, port)}
            running[os.spawnve(os.P_NOWAIT, command[0], list(command), place)] = rank
        return wait_for_ranks(running)
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _interrupt(number: int, frame: object) -> None:
    """End this process because of a signal, with the exit code that a shell gives."""
    raise SystemExit(128 + number)


def variables(rank: int, world_size: int, port: int) -> Mapping[str, str]:
    """The environment variables that torchrun would set for a rank, without those of its agent."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


if __name__ == "__main__":
    outlive_readers()
    main(sys.argv[1:])
