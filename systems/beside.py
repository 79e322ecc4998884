"""Work in a thread beside the rank's own, whose errors are not lost.

serving = beside("parameter server", server.serve_step)
...
serving.result()                                # what it returned; raises what it raised

together({"conv worker": conv_step, "fc worker": fc_step})
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import TypeVar

from systems.waiting import waiting

T = TypeVar("T")


def beside(name: str, work: Callable[[], T]) -> Future[T]:
    """Start `work` in a thread called `name`, which never keeps the process alive."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised by `result`, in the thread that asks
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def together(works: Mapping[str, Callable[[], T]]) -> list[T]:
    """Run all works at once, each in a thread of that name; returns what they return, in order.

    Raises:
        Exception: the first error in time, at once: what the other works wait for may never come.
    """
    futures = [beside(name, work) for name, work in works.items()]
    with waiting(" and ".join(works)):
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
    return [future.result() for future in futures]
