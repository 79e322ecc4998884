"""A table of the box around a cloud: the row of the voxel in every cell, -1 where there is none.

Three times as fast as searching sorted keys, where the box is not too empty to afford it.
"""

from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor

from sparsepipe.engine.coordinates import unpack

Offset = tuple[int, int, int]
Pairs = dict[Offset, tuple[Tensor, Tensor]]
"""By offset: the rows of inputs and of outputs, int32, both ascending."""
CELLS_PER_VOXEL = 128
"""Emptier boxes are not tabulated."""
MOST_CELLS = 2**31 - 1
"""Cells are numbered in int32."""


def look_up(
    fine: Tensor, coarse: Tensor, offsets: Iterable[Offset], step: int, reach: int
) -> Pairs | None:
    """For each offset o, the pairs of rows (v, u) with v = u + o. None where a table is too large.

    Args:
        fine, coarse: keys, int64, sorted and distinct; those of inputs and of outputs.
        step: what all coordinates and offsets are multiples of.
        reach: the longest offset along an axis.
    """
    if not len(fine) or not len(coarse):
        return None
    inputs, outputs = (_cells(keys, step) for keys in (fine, coarse))
    margin = torch.tensor([0, *3 * [reach // step]], dtype=torch.int32, device=fine.device)
    low = torch.minimum(inputs.amin(0), outputs.amin(0)) - margin
    sizes = (torch.maximum(inputs.amax(0), outputs.amax(0)) + margin - low + 1).tolist()
    cells = prod(sizes)
    if cells > min(CELLS_PER_VOXEL * len(fine), MOST_CELLS):
        return None
    strides = [prod(sizes[axis + 1 :]) for axis in range(4)]
    table = torch.full((cells,), -1, dtype=torch.int32, device=fine.device)
    rows = torch.arange(len(fine), dtype=torch.int32, device=fine.device)
    table.index_copy_(0, _numbers(inputs - low, strides).long(), rows)
    places = _numbers(outputs - low, strides)
    pairs = {}
    for offset in offsets:
        shift = sum(o // step * s for o, s in zip(offset, strides[1:], strict=True))
        found = table.index_select(0, places + shift)
        present = (found >= 0).nonzero().view(-1).int()
        pairs[offset] = found.index_select(0, present), present
    return pairs


def _cells(keys: Tensor, step: int) -> Tensor:
    """int32 [N, 4]: batch, and x, y, z in steps."""
    cells = unpack(keys)
    if step > 1:
        cells[:, 1:].div_(step, rounding_mode="floor")
    return cells


def _numbers(cells: Tensor, strides: list[int]) -> Tensor:
    """int32 [N]."""
    batch, x, y, z = cells.unbind(1)
    return batch * strides[0] + x * strides[1] + y * strides[2] + z
