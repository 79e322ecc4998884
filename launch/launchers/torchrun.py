"""torchrun, made to stay on one machine, and to say which rank failed first, and why.

    python -m launch.launchers.torchrun --nproc-per-node 4 -m launch worker JOB.toml

`testbed run` starts this. It takes the flags of torchrun. On one machine, the agent listens on
loopback only, and the name of the machine need not resolve. torchrun prints its own report as well.

Ranks that run `-m launch worker` are forked from this process, which has imported torch for all of
them (systems.processes.forked); those of a later attempt start Python, as torchrun's do.
"""

import os
import signal
import socket
import sys
import uuid
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler
from torch.distributed.elastic.rendezvous import (
    RendezvousError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

from launch.encoding import take_utf8
from launch.ranks import worker
from launch.ranks.ahead import import_ahead
from launch.streams import outlive_readers
from systems.environment import LOOPBACK, own_address
from systems.network import meeting
from systems.processes.background import end_now
from systems.processes.forked import Waiting
from systems.processes.supervise import tell
from systems.schema import InputError

AT_ONCE_S = 15
"""A rank killed within so many seconds of the first failure died by itself. torchrun sends SIGKILL
only later, to ranks that its SIGTERM has not ended."""
ALONE = "loopback"
"""The name of the rendezvous below in torchrun."""


def main(arguments: Sequence[str]) -> None:
    """Run torchrun; exit with its code."""
    flags = run.parse_args(list(arguments))
    try:
        if _on_one_machine(flags):
            _stay_here(flags)
        elif (
            flags.rdzv_backend == "c10d" and flags.local_addr is None and own_address() is None
        ):  # torchrun would wait for 10 minutes
            raise InputError(
                f"--local-addr: is not given, and this machine's name {socket.gethostname()} does "
                "not resolve; give the address at which the other nodes reach it"
            )
        forked = int(flags.nproc_per_node) if _runs_workers(flags) else 0
        with _forked(forked, flags.training_script_args):
            run.run(flags)
    except ChildFailedError as error:
        print(error, file=sys.stderr, flush=True)
        rank = first_failed(error.failures)
        tell(rank, error.failures[rank].exitcode, reason(rank, error.failures))
        raise SystemExit(1) from None
    except SignalException as stop:  # whoever sent the signal knows, and says so
        end_now(128 + stop.sigval)  # the agent's timers still talk to the store
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    except (RendezvousError, dist.DistNetworkError) as error:
        where = flags.rdzv_endpoint or f"{flags.master_addr}:{flags.master_port}"
        said = str(error.__cause__ or error).partition("\n")[0]
        print(
            f"error: the nodes do not meet at {where}: {said}; is the first node there, and does "
            "another program listen at this port? Give another one on all nodes",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(1) from None


def _on_one_machine(flags: Namespace) -> bool:
    """Whether the flags of torchrun mean a run on this machine alone."""
    try:
        _, nodes = run.parse_min_max_nnodes(flags.nnodes)
    except (ValueError, RuntimeError):
        raise InputError(f"--nnodes {flags.nnodes}: give a number, or two as 1:4") from None
    return flags.standalone or (nodes == 1 and flags.rdzv_backend in ("static", "c10d"))


def _stay_here(flags: Namespace) -> None:
    """Change the flags so that the agent meets no other agent, and listens on loopback."""
    endpoint = "" if flags.standalone else flags.rdzv_endpoint
    port = str(flags.master_port or 0) if flags.rdzv_backend == "static" else "0"
    if ":" in endpoint:
        port = endpoint.rpartition(":")[2]
    if not port.isdecimal():
        raise InputError(f"--rdzv-endpoint {endpoint}: write HOST:PORT")
    if flags.standalone or flags.rdzv_id == "none":
        flags.rdzv_id = str(uuid.uuid4())
    flags.standalone = False
    flags.rdzv_backend, flags.rdzv_endpoint = ALONE, f"{LOOPBACK}:{port}"
    rendezvous_handler_registry.register(ALONE, Alone)


def _runs_workers(flags: Namespace) -> bool:
    """Whether the flags of torchrun mean so many ranks of `-m launch worker`, in this Python."""
    return (
        sys.platform == "linux"
        and hasattr(SubprocessHandler, "_popen")  # is torch's own affair
        and "PYTHON_EXEC" not in os.environ
        and flags.module
        and not (flags.no_python or flags.run_path or getattr(flags, "numa_binding", None))
        and flags.nproc_per_node.isdecimal()
        and [flags.training_script, *flags.training_script_args[:1]] == ["launch", "worker"]
    )


@contextmanager
def _forked(count: int, words: Sequence[str]) -> Iterator[None]:
    """Fork ranks, which run `python -m launch` with these words, before the agent has threads; it
    lets them begin instead of starting Python anew."""

    def work() -> None:
        sys.argv = ["launch", *words]  # the record says what was started
        worker.main(words[1:])

    def begin(handler: Any, command: tuple[str, ...], variables: dict[str, str]) -> Any:
        if not waiting:  # a later attempt: this process has threads now
            return start_python(handler, command, variables)
        files = [file and file.name for file in (handler._stdout, handler._stderr)]
        return waiting.pop(0).begin(variables, *files)

    if count:
        import_ahead(words[1:])
    waiting = [Waiting(work) for _ in range(count)]
    handlers: Any = SubprocessHandler
    start_python = handlers._popen
    handlers._popen = begin
    try:
        yield
    finally:
        handlers._popen = start_python
        for one in waiting:
            one.dismiss()


class Alone(RendezvousHandler):
    """The rendezvous of an agent that is alone. The store in which its ranks meet listens on
    loopback."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        """Start the store of the ranks.

        Raises:
            InputError: the port of the endpoint is taken.
        """
        self._run_id, self._round = parameters.run_id, 0
        self._store = meeting.serve(LOOPBACK, int(parameters.endpoint.rpartition(":")[2]))

    def get_backend(self) -> str:
        """See the base class."""
        return ALONE

    @property
    def use_agent_store(self) -> bool:
        """The ranks meet in the agent's store."""
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        """The agent's place in the world: it is the only one. Every attempt gets a part of the
        store to itself."""
        self._round += 1
        room = dist.PrefixStore(f"agent/{self._round}", self._store)
        return RendezvousInfo(room, 0, 1, RendezvousStoreInfo(LOOPBACK, self._store.port))

    def is_closed(self) -> bool:
        """See the base class."""
        return False

    def set_closed(self) -> None:
        """See the base class."""

    def num_nodes_waiting(self) -> int:
        """See the base class."""
        return 0

    def get_run_id(self) -> str:
        """See the base class."""
        return self._run_id

    def shutdown(self) -> bool:
        """See the base class."""
        return True


def first_failed(failures: Mapping[int, ProcessFailure]) -> int:
    """The rank that failed first, and made the other ones fail or be ended.

    Ranks note the time when they fail. A killed rank cannot: its time is when torchrun looked, and
    others may have failed for want of it before. So a killed rank counts as the first, unless it
    was killed so late that torchrun itself may have done it.
    """
    earliest = min(failure.timestamp for failure in failures.values())

    def order(rank: int) -> tuple[bool, int]:
        failure = failures[rank]
        killed = failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
        return not (killed and failure.timestamp < earliest + AT_ONCE_S), failure.timestamp

    return min(failures, key=order)


def reason(rank: int, failures: Mapping[int, ProcessFailure]) -> str:
    """The reason that a rank has left for its end; empty if it has left none."""
    message = failures[rank].message
    return message["message"].partition("\n")[0] if isinstance(message, dict) else ""


if __name__ == "__main__":
    take_utf8()
    outlive_readers()
    main(sys.argv[1:])
