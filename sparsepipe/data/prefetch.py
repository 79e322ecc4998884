"""The order in which clouds are seen, and making mini-batches ahead of training."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from sparsepipe.data.cloud import Cloud
from sparsepipe.data.splits import Split
from systems.processes.beside import in_advance
from systems.schema import InputError

Batch = TypeVar("Batch")
# An epoch and the numbers of the clouds of one mini-batch.
Step = tuple[int, Sequence[int]]


def shuffled(length: int, batch_size: int, *, seed: int, epoch: int = 0) -> Iterator[Step]:
    """Endless mini-batches from the start of `epoch`, each epoch in its own permutation.

    The clouds at an epoch's end that do not fill a mini-batch are left out.

    Raises InputError if the data cannot fill one mini-batch.
    """
    if not 1 <= batch_size <= length:
        raise InputError(f"mini-batch of {batch_size} clouds: give 1 to {length}, the clouds")
    return _shuffled(length, batch_size, seed, epoch)


def _shuffled(length: int, batch_size: int, seed: int, epoch: int) -> Iterator[Step]:
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(length).tolist()
        for start in range(0, length - batch_size + 1, batch_size):
            yield epoch, order[start : start + batch_size]
        epoch += 1


def in_order(length: int, batch_size: int) -> Iterator[Step]:
    """Every cloud once, in mini-batches of which the last may be smaller: for testing."""
    for start in range(0, length, batch_size):
        yield 0, range(start, min(start + batch_size, length))


def prefetch(
    split: Split,
    order: Iterable[Step],
    transform: Callable[[list[Cloud]], Batch],
    *,
    workers: int = 2,
    ahead: int = 4,
) -> Generator[Batch, None, None]:
    """Yield transform(clouds) for each mini-batch of `order`, in order, up to `ahead` in advance.

    Mini-batches are made in `workers` threads (NumPy and PyTorch release the interpreter while
    they compute) and do not depend on their number. An error is raised where its mini-batch is
    due. `order` may be endless: close the generator, or drop it, and the threads have ended.

    Raises InputError if there are no workers or nothing may be ahead.
    """
    if workers < 1 or ahead < 1:
        raise InputError(f"{workers} workers, {ahead} mini-batches ahead: give 1 or more of each")
    return _prefetch(split, order, transform, workers, ahead)


def _prefetch(
    split: Split,
    order: Iterable[Step],
    transform: Callable[[list[Cloud]], Batch],
    workers: int,
    ahead: int,
) -> Generator[Batch, None, None]:
    closed = threading.Event()

    def make(epoch: int, indices: Sequence[int]) -> Batch:
        clouds = []
        for index in indices:
            if closed.is_set():
                raise RuntimeError("closed")  # nobody waits for this mini-batch
            clouds.append(split.cloud(index, epoch))
        return transform(clouds)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    try:
        yield from in_advance(pool, (partial(make, *step) for step in order), ahead=ahead)
    finally:
        closed.set()
        pool.shutdown(cancel_futures=True)
