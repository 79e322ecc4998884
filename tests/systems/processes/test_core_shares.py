"""Shares of a core: what is written for them, that they slow a process, and what is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from systems.processes import core_shares
from systems.processes.core_shares import CoreShares, Hierarchy

needs_groups = pytest.mark.skipif(
    core_shares.unavailable() is not None or os.geteuid() != 0,
    reason=core_shares.unavailable() or "not root",
)


def test_a_share_is_a_quota_of_a_short_period() -> None:
    assert Hierarchy(2, Path()).quota(0.5) == (("cpu.max", "5000 10000"),)
    assert Hierarchy(1, Path()).quota(0.25) == (
        ("cpu.cfs_period_us", "10000"),
        ("cpu.cfs_quota_us", "2500"),
    )


@needs_groups
def test_ranks_go_before_other_programs() -> None:
    with CoreShares([0.1]) as shares:
        here = core_shares.hierarchy()
        assert here is not None
        assert shares._folder is not None
        file, weight = here.weight
        assert (shares._folder / file).read_text().strip() == weight


def test_where_nobody_is_held_nothing_is_made() -> None:
    with CoreShares([None, None]) as shares:
        shares.enter(0)
        assert core_shares.throttled() is None


@needs_groups
def test_a_process_that_is_held_stands_still_now_and_then() -> None:
    with CoreShares([0.1, None]) as shares:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            shares.enter(0)
            while time.process_time() < 0.2:  # many times its quota of a millisecond
                pass
            counts = core_shares.throttled()
            os.write(writer, f"{counts.throttled if counts else 0}".encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert int(os.read(reader, 100)) > 0
    assert core_shares.leftovers() == []


@needs_groups
def test_groups_of_a_maker_that_was_killed_are_removed() -> None:
    source = (
        "from systems.processes.core_shares import CoreShares\n"
        "shares = CoreShares([0.5, 0.5])\n"
        "print(shares._folder, flush=True)\n"
        "input()\n"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert maker.stdout is not None
    folder = Path(maker.stdout.readline().strip())
    assert folder.is_dir()
    assert folder not in core_shares.leftovers()  # its maker lives
    assert core_shares.clean() == 0
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert folder in core_shares.leftovers()
    assert core_shares.clean() == 1
    assert not folder.exists()


@needs_groups
def test_a_group_is_left_alone_until_its_last_process_has_ended() -> None:
    with CoreShares([0.5]) as shares:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            shares.enter(0)
            os.write(writer, b"in")
            signal.pause()
        os.read(reader, 2)
        assert shares._folder is not None
        assert not core_shares._remove(shares._folder, 0.0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert core_shares._remove(shares._folder, 5.0)
