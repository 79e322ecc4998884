"""The order in which training sees the clouds, and threads that make mini-batches ahead of it."""

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
"""What a mini-batch is made into, such as a sparse tensor and labels."""
Step = tuple[int, Sequence[int]]
"""The epoch of one mini-batch, and the numbers of its clouds."""


def shuffled(length: int, batch_size: int, *, seed: int, epoch: int = 0) -> Iterator[Step]:
    """Yield mini-batches without end, from the start of `epoch` on. Each epoch has all `length`
    clouds in a random order of its own, which depends on the seed and the epoch alone.

    The clouds at the end of an epoch that do not fill a mini-batch are left out.

    Raises:
        InputError: there are fewer clouds than a mini-batch has.
    """
    if not 1 <= batch_size <= length:
        raise InputError(
            f"mini-batch of {batch_size} clouds: give 1 to {length}, the number of clouds"
        )
    return _shuffled(length, batch_size, seed, epoch)


def _shuffled(length: int, batch_size: int, seed: int, epoch: int) -> Iterator[Step]:
    """The generator behind `shuffled`, which checks its arguments at once."""
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(length).tolist()
        for start in range(0, length - batch_size + 1, batch_size):
            yield epoch, order[start : start + batch_size]
        epoch += 1


def in_order(length: int, batch_size: int) -> Iterator[Step]:
    """Yield mini-batches that have each of the `length` clouds once, in order, for testing. The
    last one may be smaller."""
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
    """Make mini-batches in threads, ahead of whoever uses them.

    The result does not depend on the number of threads. (Threads help, since NumPy and PyTorch
    release the interpreter while they compute.) An error in making a mini-batch is raised where
    that mini-batch is due. Where the generator is closed or dropped, its threads end.

    Args:
        split: the clouds.
        order: the clouds of each mini-batch; it may be endless.
        transform: makes a mini-batch of its clouds.
        workers: the number of threads.
        ahead: how many mini-batches may be made in advance.

    Yields:
        transform(clouds) for each mini-batch of `order`, in order.

    Raises:
        InputError: `workers` or `ahead` is less than 1.
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
    """The generator behind `prefetch`, which checks its arguments at once."""
    closed = threading.Event()

    def make(epoch: int, indices: Sequence[int]) -> Batch:
        """Make one mini-batch, in a thread."""
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
