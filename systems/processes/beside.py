"""Work in threads beside the rank's main thread, whose errors are not lost.

serving = beside("parameter server", server.serve_step)
...
serving.result()                                # what it returned; raises what it raised

together({"conv worker": conv_step, "fc worker": fc_step})

for batch in in_advance(pool, reads, ahead=2):  # read while others are used
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from typing import TypeVar

from systems.processes import background
from systems.processes.waiting import waiting

T = TypeVar("T")


def beside(name: str, work: Callable[[], T]) -> Future[T]:
    """Start `work` in a thread called `name`, which never keeps the process alive.

    The future that is returned gets what the work returns or raises.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised by `result`, in the thread that asks
            future.set_exception(error)

    background.start(name, run)
    return future


def together(works: Mapping[str, Callable[[], T]]) -> list[T]:
    """Run all works at once, each in a thread of its name; returns what they return, in order.

    Raises:
        Exception: the first error that a work raises. It is raised at once, without waiting for the
            other works: what they wait for may never come.
    """
    futures = [beside(name, work) for name, work in works.items()]
    with waiting(" and ".join(works)):
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
    return [future.result() for future in futures]


def in_advance(
    pool: Executor, works: Iterable[Callable[[], T]], *, ahead: int
) -> Generator[T, None, None]:
    """Yield what the works return, in their order, while a pool is up to `ahead` works further.

    `works` may be endless. The error of a work is raised where its result would be yielded.
    """
    pending: deque[Future[T]] = deque()
    for work in works:
        pending.append(pool.submit(work))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
