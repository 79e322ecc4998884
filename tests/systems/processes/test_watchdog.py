"""Runs that hang, in real processes: one table, the right name, and everybody ends."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from systems.environment import environment, free_port
from systems.network.distributed import start, stop
from systems.network.open_transport import open_transport
from systems.processes.supervise import HANG_EXIT_CODE
from systems.processes.waiting import waiting
from tests import emulation
from tests.emulation import needs_emulation
from tests.ranks import run_ranks, start_ranks

ROLES = ("conv", "conv", "fc")
TIMEOUT_S = 4.0
LIMIT_S = 60.0
ENDS = {HANG_EXIT_CODE, 1}
"""1: a peer has ended just before, and its connection with it."""

pytestmark = pytest.mark.distributed


def hang(how: str, log: Path) -> None:
    """Rank 0 waits for rank 2, which waits for rank 1, which does what `how` says."""
    place = environment()
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    world = start(place, ROLES, timeout_s=TIMEOUT_S, device="cpu")
    transport = open_transport("torch", world, ["gradient"])
    world.barrier("the last moment")
    if world.rank == 1:
        if how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if how == "cross":  # rank 0 waits for rank 2, rank 2 for rank 1, rank 1 for rank 0
            transport.irecv(torch.zeros(10), 0, "gradient").wait()
        time.sleep(LIMIT_S)
    transport.irecv(torch.zeros(1000), 2 if world.rank == 0 else 1, "gradient").wait()


@contextmanager
def hanging(how: str, log: Path) -> Iterator[list[BaseProcess]]:
    processes, _ = start_ranks(len(ROLES), free_port(), hang, how, log)
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def rows_of(text: str) -> list[str]:
    """The lines of the only table in a log: a row for each rank, and the verdict."""
    assert text.count("error: hang: ") == 1, text
    lines = text[text.index("error: hang: ") :].splitlines()
    assert lines[1].split() == ["rank", "role", "operation", "peers", "since"]
    return lines[2 : 3 + len(ROLES)]


def test_a_rank_that_sleeps_is_named_and_all_ranks_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with hanging("sleep", log) as processes:
        for process in processes:
            process.join(LIMIT_S / 2)
        assert {process.exitcode for process in processes} <= ENDS
    *rows, verdict = rows_of(log.read_text())
    assert rows[0].startswith("0     conv  gradient (4,000 bytes) from rank 2 (fc)")
    assert "in hang, test_watchdog.py:" in rows[1]
    assert "after all ranks at the last moment" in rows[1]
    assert rows[2].startswith("2     fc    gradient (4,000 bytes) from rank 1 (conv)")
    assert "everybody waits for rank 1 (conv), which is not waiting" in verdict


def test_a_rank_that_is_stopped_is_silent(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with hanging("stop", log) as processes:
        for process in processes:
            process.join(LIMIT_S / 2)
        first, stopped, last = (process.exitcode for process in processes)
        assert stopped == -signal.SIGKILL
        assert {first, last} <= ENDS
    *rows, verdict = rows_of(log.read_text())
    assert rows[1].startswith("1     conv  silent; before: ")
    assert "everybody waits for rank 1 (conv), which is silent" in verdict


def test_ranks_that_wait_for_each_other_are_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with hanging("cross", log) as processes:
        for process in processes:
            process.join(LIMIT_S / 2)
        assert {process.exitcode for process in processes} <= ENDS
    assert rows_of(log.read_text())[-1].startswith("ranks wait for each other: rank 0 (conv)")


def wait_a_little() -> bool:
    """Waits that together, but none alone, last longer than the time-out; one for no rank."""
    world = start(environment(), ROLES, timeout_s=TIMEOUT_S, device="cpu")
    for _ in range(2):
        with waiting("a short one", peers=[0]):
            time.sleep(0.6 * TIMEOUT_S)
    with waiting("a thread of its own, which may compute for long"):
        time.sleep(1.2 * TIMEOUT_S)
    stop(world)
    return True


def test_short_waits_are_no_hang() -> None:
    assert run_ranks(len(ROLES), wait_a_little, timeout_s=LIMIT_S) == [True] * 3


CUT = """
import threading
import torch
from pathlib import Path
from systems.network.distributed import start
from systems.network.open_transport import open_transport
joined = Path(sys.argv[1])
def main(place):
    world = start(place, ("conv", "conv", "fc"), timeout_s=2.5, device="cpu")
    transport = open_transport("torch", world, ["gradient"])
    world.barrier("the last moment")
    if place.rank == 0:
        joined.touch()
    buffer, following = torch.zeros(1000), (place.rank + 1) % 3
    while True:
        send = transport.isend(torch.ones(1000), following, "gradient")
        transport.irecv(buffer, (place.rank - 1) % 3, "gradient").wait()
        send.wait()
def cut():
    while not joined.exists():
        time.sleep(0.05)
    time.sleep(0.3)
    network.set_link({node}, up=False)
network = Network([1e9] * 3)
threading.Thread(target=cut, daemon=True).start()
print(emulate(network, 3, main))
"""


@needs_emulation
@pytest.mark.parametrize("node", [0, 2])
def test_a_node_that_is_cut_off_is_named(node: int, tmp_path: Path) -> None:
    before = emulation.namespaces()
    source = CUT.replace("{node}", str(node)).replace("sys.argv[1]", repr(str(tmp_path / "joined")))
    done = emulation.run(source)
    assert done.stdout == f"{HANG_EXIT_CODE}\n", done.stderr
    verdict = rows_of(done.stderr)[-1]
    cut_off = "the master, rank 0's node, has not answered for"
    if node == 2:
        assert "everybody waits for rank 2 (fc), which is silent" in verdict
        assert "error: rank 2 (fc) waits for gradient" in done.stderr
    else:  # it keeps the store: the others are on their own
        assert verdict.startswith("no other rank answers rank 0 (conv)")
    # Where two are cut off from the master, the first that says so ends, and may be all that the
    # other one hears of.
    assert done.stderr.count(cut_off) in ((1,) if node == 2 else (1, 2)), done.stderr
    assert emulation.namespaces() <= before
