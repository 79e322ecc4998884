"""Who waits says for what: in the process, on the terminal, and to the other ranks."""

import threading
import time
from collections.abc import Callable

import pytest

from systems.waiting import Announcer, current_operations, waiting

PATIENCE_S = 0.05
LIMIT_S = 20.0


def until(condition: Callable[[], object]) -> None:
    """Fail if `condition` does not come true."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.01)


def test_wait_is_listed_until_its_block_ends() -> None:
    assert current_operations() == []
    with waiting("the bus"):
        assert current_operations() == ["the bus (0 s)"]
    assert current_operations() == []


def test_failed_wait_is_listed_no_longer() -> None:
    with pytest.raises(RuntimeError, match="no bus today"), waiting("the bus"):
        raise RuntimeError("no bus today")
    assert current_operations() == []


def test_outer_wait_goes_on_after_the_inner_one() -> None:
    with waiting("the end"):
        with waiting("the bus"):
            assert current_operations() == ["the bus (0 s)"]
        assert current_operations() == ["the end (0 s)"]
    assert current_operations() == []


def test_short_waits_are_left_out() -> None:
    with waiting("the bus"):
        assert current_operations(at_least_s=60) == []


def test_every_thread_has_its_own_wait() -> None:
    release = threading.Event()

    def wait_for(what: str) -> None:
        with waiting(what):
            release.wait(LIMIT_S)

    threads = [threading.Thread(target=wait_for, args=(f"bus {i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(current_operations()) == 3)
    assert sorted(current_operations()) == [f"bus {i} (0 s)" for i in range(3)]
    release.set()
    for thread in threads:
        thread.join(LIMIT_S)
    assert current_operations() == []


def test_announcer_prints_and_publishes_a_long_wait(capsys: pytest.CaptureFixture[str]) -> None:
    published: list[str] = []
    announcer = Announcer("rank 7", PATIENCE_S, published.append)
    started = time.monotonic()
    with waiting("the bus"):
        until(lambda: published)
        assert time.monotonic() - started >= PATIENCE_S
        until(lambda: len(published) >= 2)  # and again, as long as it lasts
    announcer.close()
    assert published[0] == "the bus (0 s)"
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"rank 7: waiting for {text}" for text in published]


def test_announcer_keeps_quiet_about_short_waits(capsys: pytest.CaptureFixture[str]) -> None:
    published: list[str] = []
    announcer = Announcer("rank 7", 0.5, published.append)
    for _ in range(80):
        with waiting("a moment"):
            time.sleep(0.01)
    announcer.close()
    assert published == []
    assert capsys.readouterr().err == ""


def test_announcer_outlives_a_store_that_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    attempts: list[str] = []

    def publish(text: str) -> None:
        attempts.append(text)
        raise RuntimeError("the store is gone")

    announcer = Announcer("rank 7", PATIENCE_S, publish)
    with waiting("the bus"):
        until(lambda: len(attempts) >= 3)
    announcer.close()
    assert "rank 7: waiting for the bus" in capsys.readouterr().err


def test_closed_announcer_says_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    announcer = Announcer("rank 7", 60)
    before = time.monotonic()
    announcer.close()
    announcer.close()
    assert time.monotonic() - before < LIMIT_S  # it does not sit out its patience
    with waiting("the bus"):
        pass
    assert capsys.readouterr().err == ""
