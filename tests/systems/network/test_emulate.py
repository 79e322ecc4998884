import os
import signal
import time
from pathlib import Path

import pytest

from systems.network import emulate
from tests import emulation
from tests.emulation import needs_emulation


@needs_emulation
def test_every_rank_is_a_node_of_its_own() -> None:
    done = emulation.run(
        """
def main(place):
    own = os.readlink("/proc/self/ns/net")
    os.write(1, f"{place.rank} {place.world_size} {place.master_address} {own}\\n".encode())
with Network([1e9] * 4) as network:
    assert emulate(network, 4, main) == 0
print(os.readlink("/proc/self/ns/net"))
"""
    )
    *ranks, parent = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert sorted(line.split()[:3] for line in ranks) == [
        [str(r), "4", "10.77.0.1"] for r in range(4)
    ]
    assert len({line.split()[3] for line in ranks} | {parent}) == 5


@needs_emulation
@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("raise SystemExit(3)", 3, "rank 1 ended with code 3"),
        ("raise ValueError('broken')", 1, "ValueError: broken"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, "rank 1 was killed by SIGKILL"),
    ],
)
def test_a_rank_that_fails_ends_the_others(end: str, code: int, said: str) -> None:
    done = emulation.run(
        f"""
import systems.processes.supervise
systems.processes.supervise.GRACE_S = 0.2
def main(place):
    if place.rank == 1:
        {end}
    time.sleep(60)
with Network([1e9] * 3) as network:
    print(emulate(network, 3, main))
"""
    )
    assert done.stdout == f"{code}\n", done.stderr
    assert said in done.stderr


@needs_emulation
def test_a_rank_that_asks_again_and_again_does_not_stop_the_one_that_would_answer() -> None:
    """As gloo's threads do while another thread holds a connection's lock."""
    done = emulation.run(
        """
import mmap
answered = mmap.mmap(-1, 1)
def main(place):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if place.rank == 1:
        time.sleep(0.3)
        answered[0] = 1
    end = time.monotonic() + 20
    while not answered[0]:
        if time.monotonic() > end:
            raise SystemExit(3)
with Network([1e9] * 2) as network:
    print(emulate(network, 2, main))
"""
    )
    assert done.stdout == "0\n", done.stderr


@needs_emulation
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_cluster_whose_launcher_is_stopped(how: signal.Signals) -> None:
    before = emulation.namespaces()
    process = emulation.start(
        """
def main(place):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(60)
with Network([1e9] * 3) as network:
    emulate(network, 3, main)
"""
    )
    assert process.stdout is not None
    ranks = [int(process.stdout.readline()) for _ in range(3)]
    assert len(emulation.namespaces() - before) >= 3
    process.send_signal(how)
    assert process.wait(timeout=20) == (-9 if how == signal.SIGKILL else 128 + how)
    for _ in range(200):  # the kernel tears namespaces down in its own time
        if emulation.namespaces() <= before and not any(Path(f"/proc/{r}").exists() for r in ranks):
            break
        time.sleep(0.05)
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    assert emulation.namespaces() <= before


def test_leftovers_are_those_whose_launcher_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    child = os.fork()
    if not child:
        variables = {emulate.LAUNCHER: "999999999"}
        os.execve("/bin/sleep", ["sleep", "60"], variables)
    try:
        for _ in range(100):
            if child in emulate.leftovers():
                break
            time.sleep(0.02)
        assert child in emulate.leftovers()
        assert emulate.clean() >= 1
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        child = 0
        assert emulate.clean() == 0
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
