"""Starts ranks as plain processes of this machine, for `testbed run --launcher local`:

    python -m launch.launchers.local WORLD_SIZE worker ...

There is no agent and no rendezvous. Every rank is forked from this process, which has imported
torch for all of them, and gets the environment variables that torchrun would set. The first rank
that fails ends all of them.
"""

import sys
from collections.abc import Callable, Mapping, Sequence

from launch.encoding import take_utf8
from launch.ranks import worker
from launch.ranks.ahead import import_ahead
from launch.streams import outlive_readers
from systems.environment import free_port
from systems.processes.forked import take_variables
from systems.processes.supervise import run_forked


def main(arguments: Sequence[str]) -> None:
    """Start the ranks and wait for them; exit with the code of the rank that failed first."""
    size, *words = arguments
    sys.argv = ["launch", *words]  # the record says what was started
    import_ahead(words[1:])
    code = run_processes(int(size), lambda: worker.main(words[1:]))
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def run_processes(world_size: int, work: Callable[[], object]) -> int:
    """Call `work` in a forked process for every rank; returns the exit code of the rank that failed
    first.

    SIGTERM to this process and Ctrl-C end all of them.
    """
    port = free_port()

    def be_rank(rank: int) -> None:
        take_variables(variables(rank, world_size, port))
        work()

    return run_forked(world_size, be_rank)


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
    take_utf8()
    outlive_readers()
    main(sys.argv[1:])
