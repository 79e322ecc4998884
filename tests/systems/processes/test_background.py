"""Programs keep their exit code, whatever their background threads do when they end."""

import subprocess
import sys
import threading

import pytest

from systems.processes import background
from tests.systems.processes.late_exits import KINDS

COUNT = 1
"""Before threads were waited for, four of five such programs aborted."""
QUICK = ["closed watchdog", "open watchdog", "work beside", "inbox", "outbox", "progress"]


def rows(count: int, kinds: list[str]) -> list[str]:
    command = [sys.executable, "-m", "tests.systems.processes.late_exits", str(count), *kinds]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.distributed
def test_no_program_aborts_when_the_store_answers_during_its_end() -> None:
    assert rows(COUNT, QUICK) == [f"{kind}: 0x{COUNT}" for kind in QUICK]


@pytest.mark.slow
@pytest.mark.distributed
def test_none_of_two_hundred_programs_aborts() -> None:
    assert rows(200, list(KINDS)) == [f"{kind}: 0x200" for kind in KINDS]


STUCK = """
import sys, threading
from systems.processes import background
background.PATIENCE_S = background.SHORT_PATIENCE_S = 0.05
background.start("stuck", threading.Event().wait)
def work():
    print("its last words", end="")
    {ends}
background.leave(background.exit_code_of(work))
"""


@pytest.mark.parametrize(
    ("ends", "code", "words"),
    [
        ("pass", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('no such file')", 1, "no such file\n"),
        ("raise ValueError('seven')", 1, "ValueError: seven\n"),
    ],
)
def test_a_program_with_a_thread_that_never_ends_keeps_its_code_and_its_words(
    ends: str, code: int, words: str
) -> None:
    source = STUCK.replace("{ends}", ends)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "its last words")
    assert done.stderr.endswith(words)


HOLDING = """
import atexit
import torch, torch.distributed as dist
import torch._dynamo  # what it imports later than the group would hold the group
from systems.processes import background
atexit.register(print, "Python's own end")
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 3))
model(torch.ones(2, 4)).sum().backward()
{frees}
dist.destroy_process_group()
print("the last words")
background.leave(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for threads in /proc")
@pytest.mark.parametrize(
    ("frees", "words"),
    [
        ("", ["the last words"]),
        ("del model; import gc; gc.collect()", ["the last words", "Python's own end"]),
    ],
)
def test_a_program_that_holds_a_process_group_ends_without_python(
    frees: str, words: list[str]
) -> None:
    source = HOLDING.replace("{frees}", frees)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()) == (0, words), done.stderr


def test_a_script_that_raises_does_not_wait_for_a_thread_for_ever() -> None:
    source = STUCK.partition("def work")[0].replace(
        "background.SHORT", "background.finish.__defaults__ = (0.05,); background.SHORT"
    )
    command = [sys.executable, "-c", f"{source}raise ValueError('seven')"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ValueError: seven" in done.stderr


def test_threads_are_asked_to_stop_and_waited_for() -> None:
    stopped, ended = threading.Event(), threading.Event()

    def work() -> None:
        stopped.wait()
        ended.set()

    background.start("work", work, stop=stopped.set)
    assert background.finish()
    assert ended.is_set()


def test_a_thread_that_does_not_stop_is_told() -> None:
    release = threading.Event()
    thread = background.start("stubborn", release.wait)
    assert not background.finish(0.01)
    release.set()
    assert background.join(thread)
    assert background.finish()
