"""Work beside the rank's own: its result and its error come back, and the first error ends it."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from systems.processes.beside import beside, in_advance, together


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


def test_work_is_done_in_advance_but_not_without_end() -> None:
    begun = threading.Semaphore(0)

    def work(number: int) -> int:
        begun.release()
        return number * number

    with ThreadPoolExecutor(1) as pool:
        results = in_advance(pool, (partial(work, i) for i in itertools.count()), ahead=2)
        assert [next(results) for _ in range(4)] == [0, 1, 4, 9]
        results.close()
    assert begun._value == 6


def test_the_last_results_come_and_an_error_where_it_is_due() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = in_advance(pool, [lambda: 1, fail], ahead=5)
        assert next(results) == 1
        with pytest.raises(ArithmeticError, match="trouble"):
            next(results)
