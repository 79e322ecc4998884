"""Both transports keep one contract, and the kernel's count of bytes agrees with ours."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from systems.environment import environment
from systems.network.distributed import start, stop
from systems.network.open_transport import open_transport
from systems.network.tcp import tcp_bytes
from systems.schema import InputError
from tests.ranks import run_ranks
from tests.systems.network.transport_cases import NAMES, ROLES, Outcome, meet_death, run_cases

LIMIT_S = 120
NOTICED_S = 20
"""A peer's death is seen within this, on the slowest machine; the time-out is 60 s."""

pytestmark = pytest.mark.distributed


def needs_mpi4py() -> None:
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("no mpi4py: pip install 'systems-testbed[mpi]'")


def mpirun(part: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `part` of the cases under mpirun; skips the test where there is none."""
    beside = Path(sys.executable).parent / "mpirun"
    command = str(beside) if beside.is_file() else shutil.which("mpirun")
    if command is None:
        pytest.skip("no mpirun: pip install 'systems-testbed[mpi]'")
    needs_mpi4py()
    ranks = ["--oversubscribe", "--allow-run-as-root", "-np", str(len(ROLES))]
    worker = [sys.executable, "-m", "tests.systems.network.transport_cases", part, str(folder)]
    return subprocess.run(
        [command, *ranks, *worker],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


@pytest.fixture(scope="module")
def over_torch() -> list[Outcome]:
    """Every rank's outcome of all cases over gloo."""
    return run_ranks(len(ROLES), run_cases, "torch", timeout_s=LIMIT_S)


@pytest.fixture(scope="module")
def over_mpi(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """Every rank's outcome of all cases over MPI."""
    folder = tmp_path_factory.mktemp("mpi")
    result = mpirun("cases", folder)
    assert result.returncode == 0, result.stderr
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(len(ROLES))]


@pytest.mark.parametrize("name", NAMES)
def test_torch(name: str, over_torch: list[Outcome]) -> None:
    for rank, outcome in enumerate(over_torch):
        assert not outcome[name], f"rank {rank}:\n{outcome[name]}"


@pytest.mark.parametrize("name", NAMES)
def test_mpi(name: str, over_mpi: list[Outcome]) -> None:
    for rank, outcome in enumerate(over_mpi):
        assert not outcome[name], f"rank {rank}:\n{outcome[name]}"


def survive() -> tuple[str, float] | None:
    """`meet_death` in a child of this rank, whose end is not that of the rank's process."""
    if environment().rank == 1:
        child = os.fork()
        if child == 0:
            try:
                meet_death("torch")
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        return None
    started = time.monotonic()
    return meet_death("torch"), time.monotonic() - started


def test_killed_peer_is_named_over_torch() -> None:
    first, killed, last = run_ranks(len(ROLES), survive, timeout_s=LIMIT_S)
    assert killed is None
    for text, lasted_s in (first, last):
        assert "activation (4,000 bytes) from rank 1 (conv) failed, the peer is gone (" in text
        assert "\n" not in text
        assert lasted_s < NOTICED_S


def test_killed_rank_ends_the_job_over_mpi(tmp_path: Path) -> None:
    """MPI does not outlive a rank: mpirun ends the others and says whose death it was."""
    started = time.monotonic()
    result = mpirun("killed", tmp_path)
    assert time.monotonic() - started < NOTICED_S + 20
    assert result.returncode != 0
    assert "signal 9 (Killed)" in result.stdout + result.stderr
    assert list(tmp_path.iterdir()) == []  # no rank went on as if nothing had happened


def test_mpi_needs_mpirun() -> None:
    needs_mpi4py()
    with pytest.raises(AssertionError, match="MPI sees 1 of 2 ranks; start them with mpirun"):
        run_ranks(2, open_mpi)


def open_mpi() -> None:
    world = start(environment(), ("conv", "fc"), timeout_s=30, device="cpu")
    with pytest.raises(InputError) as caught:
        open_transport("mpi", world, ["label"])
    stop(world)
    raise AssertionError(str(caught.value))


# The kernel's count


def needs_counts() -> None:
    if tcp_bytes() is None:
        pytest.skip("this kernel does not count the bytes of a TCP connection")


def test_kernel_counts_a_plain_connection_exactly() -> None:
    needs_counts()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as accepted,
    ):
        before = tcp_bytes()
        client.sendall(b"x" * 12_345)
        accepted.sendall(b"y" * 100)
        assert len(accepted.recv(12_345, socket.MSG_WAITALL)) == 12_345
        assert len(client.recv(100, socket.MSG_WAITALL)) == 100
        after = tcp_bytes()
    assert before is not None
    assert after is not None
    # Both ends are ours, so each byte is sent once and received once.
    assert (after[0] - before[0], after[1] - before[1]) == (12_445, 12_445)


ALL_REDUCED = 4 * 1024**2
SENT = [1024**2 * (rank + 1) for rank in range(4)]


def count_bytes() -> dict[str, tuple[int, int]]:
    """The kernel's bytes, sent and received, of an all-reduce and of a message around a ring."""
    world = start(environment(), ["conv"] * 4, timeout_s=60, device="cpu")
    transport = open_transport("torch", world, ["activation"])
    values = torch.ones(ALL_REDUCED // 4)
    counts = {}

    def ring() -> None:
        buffer = torch.empty(SENT[world.rank - 1] // 4)
        receive = transport.irecv(buffer, (world.rank - 1) % 4, "activation")
        mine = torch.ones(SENT[world.rank] // 4)
        transport.isend(mine, (world.rank + 1) % 4, "activation").wait()
        receive.wait()

    for name, work in (("all-reduce", lambda: dist.all_reduce(values)), ("ring", ring)):
        world.barrier("before")
        before = tcp_bytes()
        work()
        world.barrier("after")
        after = tcp_bytes()
        assert before is not None
        assert after is not None
        counts[name] = (after[0] - before[0], after[1] - before[1])
    assert sum(transport.sent_bytes) == SENT[world.rank]
    assert sum(transport.received_bytes) == SENT[world.rank - 1]
    stop(world)
    return counts


@pytest.fixture(scope="module")
def counted() -> list[dict[str, tuple[int, int]]]:
    """The counts of all four ranks."""
    needs_counts()
    return run_ranks(4, count_bytes)


def test_all_reduce_moves_twice_the_others_share(counted: list[dict[str, tuple[int, int]]]) -> None:
    wanted = 2 * ALL_REDUCED * 3 / 4
    for counts in counted:
        assert counts["all-reduce"] == pytest.approx((wanted, wanted), rel=0.02)


def test_kernel_agrees_with_our_count(counted: list[dict[str, tuple[int, int]]]) -> None:
    for rank, counts in enumerate(counted):
        assert counts["ring"] == pytest.approx((SENT[rank], SENT[rank - 1]), rel=0.02)
