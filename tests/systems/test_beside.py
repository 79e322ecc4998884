"""Work beside the rank's own: its result and its error come back, and the first error ends it."""

import threading

import pytest

from systems.beside import beside, together


def fail() -> int:
    raise ArithmeticError("trouble")


def test_a_result_comes_back_from_a_thread_of_that_name() -> None:
    assert beside("server", lambda: threading.current_thread().name).result() == "server"


def test_an_error_comes_back() -> None:
    with pytest.raises(ArithmeticError, match="trouble"):
        beside("server", fail).result()


def test_results_come_in_order() -> None:
    assert together({"a": lambda: 1, "b": lambda: 2}) == [1, 2]


@pytest.mark.parametrize("first", [True, False])
def test_an_error_does_not_wait_for_the_others(first: bool) -> None:
    never = threading.Event()
    works = {"fails": fail, "waits": lambda: int(never.wait(60))}
    with pytest.raises(ArithmeticError, match="trouble"):
        together(works if first else dict(reversed(works.items())))
    assert not never.is_set()
    never.set()
