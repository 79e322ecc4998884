"""Ranks that are started only to measure something: new processes, of which the first answers."""

import multiprocessing
from collections.abc import Callable
from typing import Any


def answer_of_rank_0(main: Callable[..., None], ranks: int, *arguments: Any, what: str) -> Any:
    """Call `main(rank, ranks, *arguments, result)` in a new process for every rank; returns what
    rank 0 sends into the connection `result`, which is None on the others.

    Args:
        what: what the ranks do, as the start of the error.

    Raises:
        RuntimeError: rank 0 has ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    processes = [
        context.Process(target=main, args=(rank, ranks, *arguments, None if rank else theirs))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError(f"{what} failed, its error is above") from None
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
