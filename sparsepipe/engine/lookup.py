"""Finding neighbours with a table: the row of the voxel in every cell of the box around a cloud.

    -1 -1 -1 -1 -1      The voxels 0, 1 and 2 in their box, with a margin as wide as the kernel
    -1  0  1 -1 -1      reaches. A cell's number is linear in its coordinates, so one addition leads
    -1 -1 -1  2 -1      from the cells of all outputs to their neighbours under an offset, and the
    -1 -1 -1 -1 -1      margin keeps that inside the table. -1 says that there is no voxel.

It is three times as fast as searching sorted keys, where the box is not too empty to afford it.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from sparsepipe.engine.axes import Axes, each
from sparsepipe.engine.coordinates import unpack
from sparsepipe.engine.kernel import Offset

Pairs = dict[Offset, tuple[Tensor, Tensor]]
"""For each offset, the input rows and the output rows of its pairs, int32, both ascending."""
CELLS_PER_VOXEL = 128
"""The largest number of cells for each voxel for which a table is made."""
MOST_CELLS = 2**31 - 1
"""The largest number of cells, since they are numbered in int32."""


def look_up(
    fine: Tensor, coarse: Tensor, offsets: Sequence[Offset], step: Axes, reach: Axes
) -> Pairs | None:
    """Find, for each offset o, the pairs (input row v, output row u) with voxel v = voxel u + o.

    Args:
        fine, coarse: the keys of inputs and outputs, int64, sorted and distinct.
        offsets: the offsets, in voxels of the finest grid.
        step: a number that divides all coordinates and offsets; a cell is that wide.
        reach: at least the longest offset along each axis.

    Returns:
        The pairs, or None where the table would be too large.
    """
    if not len(fine) or not len(coarse) or not offsets:
        return None
    dimension = len(offsets[0])
    steps = each(step, dimension)
    # 1. The box around all voxels, widened by the reach of the kernel; batch is its first axis.
    inputs, outputs = (_cells(keys, steps) for keys in (fine, coarse))
    margins = [0, *(far // step for far, step in zip(each(reach, dimension), steps, strict=True))]
    margin = torch.tensor(margins, dtype=torch.int32, device=fine.device)
    low = torch.minimum(inputs.amin(0), outputs.amin(0)) - margin
    sizes = (torch.maximum(inputs.amax(0), outputs.amax(0)) + margin - low + 1).tolist()
    cells = prod(sizes)
    if cells > min(CELLS_PER_VOXEL * len(fine), MOST_CELLS):
        return None
    # 2. The table: each input's row in its cell.
    strides = [prod(sizes[axis + 1 :]) for axis in range(dimension + 1)]
    table = torch.full((cells,), -1, dtype=torch.int32, device=fine.device)
    rows = torch.arange(len(fine), dtype=torch.int32, device=fine.device)
    table.index_copy_(0, _numbers(inputs - low, strides).long(), rows)
    # 3. For each offset, read the cell that lies there from every output's cell.
    places = _numbers(outputs - low, strides)
    pairs = {}
    for offset in offsets:
        shift = sum(o // t * s for o, t, s in zip(offset, steps, strides[1:], strict=True))
        neighbours = table.index_select(0, places + shift)
        present = (neighbours >= 0).nonzero().view(-1).int()
        pairs[offset] = neighbours.index_select(0, present), present
    return pairs


def _cells(keys: Tensor, steps: tuple[int, ...]) -> Tensor:
    """The cells of voxels, int32 [N, 4]: batch, and x, y and z divided by `steps`."""
    cells = unpack(keys, len(steps))
    if max(steps) > 1:
        divisors = torch.tensor(steps, dtype=torch.int32, device=keys.device)
        cells[:, 1:].div_(divisors, rounding_mode="floor")
    return cells


def _numbers(cells: Tensor, strides: list[int]) -> Tensor:
    """The numbers of cells [N, 4] in a table with these strides, int32 [N]."""
    numbers = cells[:, -1].clone()
    for column, stride in zip(cells.unbind(1)[:-1], strides[:-1], strict=True):
        numbers += column * stride
    return numbers
