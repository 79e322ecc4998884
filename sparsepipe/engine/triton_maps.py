"""The table of a kernel map by one kernel of Triton.

A program (a block of GPU threads) looks up a tile of outputs under all offsets, one offset after
the other, in the order of `sparsepipe.engine.lookup.searches`:

    for each offset:
        walk up from the inputs before, or begin a new binary search    places in the sorted keys
        is there the key that is wanted?                                the row of the table
        set the offset's bit in the masks of those outputs that have an input

The kernel runs on CUDA, and on a CPU only with TRITON_INTERPRET=1, which is slow and for tests.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsepipe.engine.kernel import Kernel
from sparsepipe.engine.lookup import Table, mask_type, searches

ROWS = 64
"""The outputs of a tile."""
WARPS = 2
"""The warps of a program: a thread for each output."""


def look_up(keys: Tensor, queries: Tensor, kernel: Kernel, *, backwards: bool) -> Table:
    """See `sparsepipe.engine.lookup.look_up`."""
    offsets, outputs = len(kernel.offsets), len(queries)
    inputs = torch.empty((offsets, outputs), dtype=torch.int32, device=keys.device)
    masks = torch.empty(outputs, dtype=mask_type(offsets), device=keys.device)
    if outputs:
        with torch.cuda.device_of(keys):
            look_up_kernel[(triton.cdiv(outputs, ROWS),)](
                keys,
                queries,
                _plan(kernel, backwards, keys.device),
                inputs,
                masks,
                len(keys),
                outputs,
                offsets,
                len(keys).bit_length(),
                ROWS=ROWS,
                num_warps=WARPS,
            )
    return Table(inputs, masks)


@lru_cache(maxsize=256)
def _plan(kernel: Kernel, backwards: bool, device: torch.device) -> Tensor:
    """The searches for all offsets, int64 [K, 4], on the device."""
    return torch.tensor(searches(kernel, backwards), device=device)


@triton.jit(do_not_specialize=["count", "height", "doublings"])
def look_up_kernel(
    keys: tl.tensor,
    queries: tl.tensor,
    plan: tl.tensor,
    table: tl.tensor,
    masks: tl.tensor,
    count: tl.tensor,
    height: tl.tensor,
    offsets: tl.tensor,
    doublings: tl.tensor,
    ROWS: tl.constexpr,
) -> None:
    """Fill table [offsets, height] and masks [height] for the outputs `queries` [height] among the
    inputs `keys` [count]. 2^doublings is more than `count`."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < height
    query = tl.load(queries + rows, mask=inside, other=0)
    mask = tl.zeros((ROWS,), dtype=tl.int64)
    place = tl.zeros((ROWS,), dtype=tl.int64)  # how many keys are below the one that is wanted
    for _ in range(offsets):
        wanted = query + tl.load(plan)
        steps = tl.load(plan + 1)
        if steps < 0:
            place = tl.zeros((ROWS,), dtype=tl.int64)
            for halving in range(doublings):
                further = place + (1 << (doublings - 1 - halving))
                below = tl.load(keys + further - 1, mask=further <= count, other=0) < wanted
                place = tl.where(below & (further <= count), further, place)
        for _ in range(steps):
            below = tl.load(keys + place, mask=place < count, other=0) < wanted
            place = tl.where(below & (place < count), place + 1, place)
        there = tl.load(keys + place, mask=place < count, other=0) == wanted
        there = there & (place < count) & inside
        tl.store(table + tl.load(plan + 2) * height + rows, tl.where(there, place, -1), mask=inside)
        mask = mask | (there.to(tl.int64) << tl.load(plan + 3))
        plan += 4
    tl.store(masks + rows, mask, mask=inside)
