"""Who waits says for what: in the process and on the terminal."""

import threading
import time
from collections.abc import Callable

import pytest

from systems.processes.waiting import (
    Announcer,
    Operation,
    last_operation_of,
    operation_of,
    operations,
    waiting,
)

PATIENCE_S = 0.05
LIMIT_S = 20.0


def until(condition: Callable[[], object]) -> None:
    """Fail if `condition` does not come true."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.01)


def listed() -> list[str]:
    return [operation.what for operation in operations()]


def mine(seen: Callable[[int], Operation | None]) -> tuple[str, tuple[int, ...]]:
    operation = seen(threading.get_ident())
    assert operation is not None
    return operation.what, operation.peers


def test_wait_is_listed_until_its_block_ends() -> None:
    assert listed() == []
    with waiting("the bus", peers=[3, 1]):
        assert listed() == ["the bus"]
        assert mine(operation_of) == ("the bus", (3, 1))
    assert listed() == []
    assert mine(last_operation_of) == ("the bus", (3, 1))


def test_failed_wait_is_listed_no_longer() -> None:
    with pytest.raises(RuntimeError, match="no bus today"), waiting("the bus"):
        raise RuntimeError("no bus today")
    assert listed() == []


def test_outer_wait_goes_on_after_the_inner_one() -> None:
    with waiting("the end"):
        began = operations()[0].since
        with waiting("the bus"):
            assert listed() == ["the bus"]
        assert listed() == ["the end"]
        assert operations()[0].since == began
    assert listed() == []


def test_every_thread_has_its_own_wait_and_the_longest_comes_first() -> None:
    release = threading.Event()

    def wait_for(what: str) -> None:
        with waiting(what):
            release.wait(LIMIT_S)

    threads = [threading.Thread(target=wait_for, args=(f"bus {i}",)) for i in range(3)]
    for number, thread in enumerate(threads):
        thread.start()
        until(lambda number=number: len(operations()) == number + 1)  # type: ignore[misc]
    assert listed() == ["bus 0", "bus 1", "bus 2"]
    release.set()
    for thread in threads:
        thread.join(LIMIT_S)
    assert listed() == []


def test_announcer_prints_a_long_wait_again_and_again(capsys: pytest.CaptureFixture[str]) -> None:
    announcer = Announcer("rank 7", PATIENCE_S)
    lines: list[str] = []

    def printed_twice() -> bool:
        lines.extend(capsys.readouterr().err.splitlines())
        return len(lines) >= 2

    with waiting("the bus"):
        until(printed_twice)
    announcer.close()
    assert set(lines) == {"rank 7: waiting for the bus (0 s)"}


def test_announcer_keeps_quiet_about_short_waits(capsys: pytest.CaptureFixture[str]) -> None:
    announcer = Announcer("rank 7", 0.5)
    for _ in range(80):
        with waiting("a moment"):
            time.sleep(0.01)
    announcer.close()
    assert capsys.readouterr().err == ""


def test_closed_announcer_says_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    announcer = Announcer("rank 7", 60)
    before = time.monotonic()
    announcer.close()
    announcer.close()
    assert time.monotonic() - before < LIMIT_S  # it does not sit out its patience
    with waiting("the bus"):
        pass
    assert capsys.readouterr().err == ""
