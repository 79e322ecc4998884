"""The keys of coordinates, and what their checks need to know, by one kernel of Triton.

A program (a block of GPU threads) packs a tile of rows, and numbers them. Of each tile the host
reads the smallest and the largest number of every column, and whether keys ascend: one read for all
checks.

The kernel runs on CUDA, and on a CPU only with TRITON_INTERPRET=1, which is slow and for tests.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsepipe.engine.coordinates import Packing

ROWS = 1024
"""The rows of a tile."""
WARPS = 4
"""The warps of a program: 8 rows for each thread."""


def packed(
    coordinates: Tensor, form: Packing
) -> tuple[Tensor, Tensor | None, list[int], list[int]]:
    """Pack integer coordinates [N, 1 + axes] of at least one voxel.

    Returns:
        The keys, int64 [N], which make no sense where numbers are beyond what a key holds; the
        numbers 0, 1, ..., N - 1 of the rows, int64, if keys ascend; and the smallest and the
        largest number of each column.
    """
    height, fields = coordinates.shape
    tiles = triton.cdiv(height, ROWS)
    keys, rows = (coordinates.new_empty(height, dtype=torch.int64) for _ in range(2))
    found = coordinates.new_empty((tiles, 2 * fields + 1), dtype=torch.int64)
    with torch.cuda.device_of(coordinates):
        pack_kernel[(tiles,)](
            coordinates,
            keys,
            rows,
            found,
            height,
            *coordinates.stride(),
            FIELDS=fields,
            BITS=form.bits,
            ROWS=ROWS,
            num_warps=WARPS,
        )
    columns = list(zip(*found.tolist(), strict=True))
    low, high = columns[:fields], columns[fields : 2 * fields]
    return keys, rows if all(columns[-1]) else None, [*map(min, low)], [*map(max, high)]


@triton.jit(do_not_specialize=["height"])
def pack_kernel(
    coordinates: tl.tensor,
    keys: tl.tensor,
    rows: tl.tensor,
    found: tl.tensor,
    height: tl.tensor,
    row_step: tl.tensor,
    field_step: tl.tensor,
    FIELDS: tl.constexpr,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """Compute keys and rows [height] of coordinates [height, FIELDS], of which neighbours lie so
    many steps apart; and of each tile found [tiles, 2 * FIELDS + 1]: the smallest number of each
    field, the largest, and 1 if keys ascend from the row before the tile on, else 0."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    own = tl.minimum(row, height - 1)  # the last row again and again, where there are no more
    before = tl.maximum(own - 1, 0)
    found += tl.program_id(0) * (2 * FIELDS + 1)
    key = tl.zeros((ROWS,), dtype=tl.int64)
    key_before = tl.zeros((ROWS,), dtype=tl.int64)
    for field in tl.static_range(FIELDS):
        column = coordinates + field * field_step
        value = tl.load(column + own * row_step).to(tl.int64)
        tl.store(found + field, tl.min(value, 0))
        tl.store(found + FIELDS + field, tl.max(value, 0))
        key = (key << BITS) + value
        key_before = (key_before << BITS) + tl.load(column + before * row_step).to(tl.int64)
    tl.store(keys + row, key, mask=row < height)
    tl.store(rows + row, row, mask=row < height)
    ascends = (key > key_before) | (row == 0) | (row >= height)
    tl.store(found + 2 * FIELDS, tl.min(ascends.to(tl.int64), 0))
