"""Decides which samples each worker trains on in which step, and reads them ahead.

`global_batch` says which training samples a step uses, and `share` which contiguous part of them a
worker takes. Both depend on their arguments alone, so every scheme and every number of workers
trains on the same samples in the same order.
"""

from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from systems.data.dataset import Batch, Indices, Split
from systems.data.pinned import pinned
from systems.data.shares import even_shares
from systems.processes.beside import in_advance
from systems.schema import InputError

CPU = torch.device("cpu")


def prefetch(
    split: Split, batches: Iterable[Indices], *, ahead: int = 2, device: torch.device = CPU
) -> Generator[Batch, None, None]:
    """Yield `split.batch(indices)` for each of `batches`, and read `ahead` batches in advance.

    A background thread reads, into pinned memory if `device`, where the batches are used, is a GPU
    (`systems.data.pinned.moved` brings them there). What it raises is raised here, in the place of
    its batch. `batches` may be endless: close the generator, or drop it, to stop reading.
    """
    pool = ThreadPoolExecutor(1)
    reads = (partial(_read, split, indices, device) for indices in batches)
    try:
        yield from in_advance(pool, reads, ahead=ahead)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read(split: Split, indices: Indices, device: torch.device) -> Batch:
    """A batch, in pinned memory if `device` is a GPU."""
    batch: Batch = pinned(split.batch(indices), device)
    return batch


def global_batch(size: int, dataset_length: int, *, seed: int, step: int) -> Tensor:
    """The indices int64 [size] of the samples that all workers together train on in a step.

    Every epoch goes through a permutation of its own, which (seed, epoch) decides. The samples at
    its end that do not fill a batch are left out. Steps count from 0.

    Raises:
        InputError: the data cannot fill one batch, or `step` is negative.
    """
    if not 1 <= size <= dataset_length:
        raise InputError(
            f"global batch of {size} samples: give 1 to {dataset_length}, the training samples"
        )
    if step < 0:
        raise InputError(f"step {step}: steps count from 0")
    epoch, position = divmod(step, dataset_length // size)
    order = permutation(dataset_length, seed, epoch)
    return order[position * size : (position + 1) * size].clone()


@lru_cache(maxsize=2)
def permutation(length: int, seed: int, epoch: int) -> Tensor:
    """The order of the samples in one epoch: int64 [length]."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(length))


def share(size: int, workers: int, index: int) -> slice:
    """The part of a global batch of `size` samples that worker `index` takes.

    Shares are contiguous and in the order of the workers. They differ by at most one sample; the
    larger ones come first.

    Raises:
        InputError: there is no such worker.
    """
    if not 0 <= index < workers:
        raise InputError(f"worker {index}: give 0 to {workers - 1}, as there are {workers} workers")
    return consecutive(even_shares(size, workers))[index]


def consecutive(sizes: Sequence[int]) -> list[slice]:
    """Cut a batch into parts of these sizes, which follow one another."""
    ends = list(accumulate(sizes))
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
