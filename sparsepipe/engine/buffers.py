"""Memory for large results on a CPU, which is kept when they are gone, for the next ones.

The system takes the pages of a large block back when it is freed, and clears every page of the
next one when it is first written: that takes as long as much of the computing, 28 MB for the
gradient of a weight of 512 to 512 channels in every step.

Clouds differ from step to step, and so do their results. Blocks have one of eight sizes between a
power of two and the next, so that a block serves results that are a little smaller, too.
"""

import weakref
from collections import defaultdict
from math import prod

import numpy as np
import torch
from torch import Tensor

LEAST_BYTES = 2**20
"""Smaller results are PyTorch's, whose allocator keeps small blocks anyway."""
MOST_FREE_BYTES = 2**28
"""The most memory that is kept without being used."""
_ALIGNMENT = 64

_free: dict[int, list[np.ndarray]] = defaultdict(list)
"""Blocks that nobody uses, by their number of bytes."""


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor with whatever was in its memory, as torch.empty makes one. Its memory comes back
    when the last tensor on it is gone."""
    used = prod(shape) * dtype.itemsize
    if used < LEAST_BYTES:
        return torch.empty(shape, dtype=dtype)
    step = 1 << (used.bit_length() - 4)
    size = -(-used // step) * step
    try:
        block = _free[size].pop()  # asks nothing first: another thread may take the last one
    except IndexError:
        block = np.empty(size + _ALIGNMENT, np.uint8)
    start = -block.ctypes.data % _ALIGNMENT
    lent = block[start : start + used]  # the tensor keeps this view, and not the block
    weakref.finalize(lent, _take_back, block, size).atexit = False
    return torch.from_numpy(lent).view(dtype).view(shape)


def _take_back(block: np.ndarray, size: int) -> None:
    """Keep a block, unless too many bytes are kept already."""
    if size + free_bytes() <= MOST_FREE_BYTES:
        _free[size].append(block)


def free_bytes() -> int:
    """The memory that is kept without being used."""
    return sum(size * len(blocks) for size, blocks in list(_free.items()))
