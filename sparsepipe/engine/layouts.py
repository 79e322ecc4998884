"""Two arrangements of a kernel map's pairs, which the backends compute in: blocks and a table.

A kernel map lists its pairs by offset. The same pairs seen by output row, for three offsets and
four outputs (a number is an input row, a dot means that no voxel is there):

    offset      0  1  2                     Blocks of two output rows: each has the pairs by
    output 0    .  0  1   |                 offset, to multiply them at once, and the order in
    output 1    0  1  .   | block 0         which their products are summed by output row.
    output 2    .  2  3   |
    output 3    2  3  .   | block 1         The table is this picture with an output in each
                                            column, outputs of the same offsets side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from sparsepipe.engine.lookup import Table, Wanted, look_up
from sparsepipe.engine.triton_here import triton_serves


@dataclass(frozen=True, eq=False)
class Block:
    """The p pairs of some consecutive output rows, sorted by offset and then by row, and the order
    in which their products are summed."""

    rows: slice
    """The output rows."""
    inputs: Tensor
    """int32 [p]: the input row of each pair."""
    outputs: Tensor
    """int32 [p]: the output row of each pair."""
    offsets: list[int]
    """The numbers of the offsets that have pairs in this block."""
    counts: list[int]
    """How many pairs each of `offsets` has."""
    order: Tensor
    """int32 [p]: the numbers of the pairs, sorted by output row and then by offset."""
    starts: Tensor
    """int32 [rows + 1]: where the pairs of each output row start in `order`."""


def cut(
    inputs: Tensor, outputs: Tensor, counts: Sequence[int], starts: Tensor, rows: int
) -> list[Block]:
    """Cut a kernel map into blocks of output rows.

    Args:
        inputs, outputs: int32 [P], the pairs, sorted by offset and then by row.
        counts: the number of pairs of each offset.
        starts: int32 [M + 1], where the pairs of each of M output rows start when they are sorted
            by output row.
        rows: the number of output rows in a block. The last block may have fewer.
    """
    # 1. Bring the pairs into the order of blocks, and of offsets inside a block.
    sizes = _sizes(outputs, counts, len(starts) - 1, rows)
    blocks = len(sizes[0])
    inputs, outputs = (_by_block(values, sizes) for values in (inputs, outputs))
    # 2. The order by output row. Rows ascend from block to block, so it stays inside the blocks.
    order = outputs.argsort(stable=True).int()
    firsts = [min(block * rows, len(starts) - 1) for block in range(blocks + 1)]
    pairs = starts[firsts].tolist()
    result = []
    for block, ((first, end), (low, high)) in enumerate(
        zip(pairwise(firsts), pairwise(pairs), strict=True)
    ):
        present = [k for k in range(len(counts)) if sizes[k][block]]
        result.append(
            Block(
                rows=slice(first, end),
                inputs=inputs[low:high],
                outputs=outputs[low:high],
                offsets=present,
                counts=[sizes[k][block] for k in present],
                order=order[low:high] - low,
                starts=starts[first : end + 1] - low,
            )
        )
    return result


def _sizes(outputs: Tensor, counts: Sequence[int], height: int, rows: int) -> list[list[int]]:
    """The number of pairs of each offset in each block of `rows` out of `height` output rows.

    The numbers offset x `height` + output row ascend over all pairs, so the start of each block
    under each offset is found by a search among them.
    """
    number = torch.arange(len(counts), device=outputs.device) * height
    repeats = torch.tensor(counts, device=outputs.device)
    keys = number.repeat_interleave(repeats, output_size=len(outputs)) + outputs
    firsts = torch.arange(0, height, rows, device=outputs.device)
    bounds = torch.searchsorted(keys, number[:, None] + firsts).view(-1)
    sizes = torch.cat([bounds, bounds.new_tensor([len(outputs)])]).diff()
    return sizes.view(len(counts), len(firsts)).tolist()


def _by_block(values: Tensor, sizes: list[list[int]]) -> Tensor:
    """Bring values of the pairs from the order by offset into the order by block and then offset.
    `sizes` are those of `_sizes`."""
    parts = values.split([size for sizes_of_offset in sizes for size in sizes_of_offset])
    blocks = len(sizes[0])
    return torch.cat([values[:0], *(part for b in range(blocks) for part in parts[b::blocks])])


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The table of the input row of each of M outputs under each of K offsets. Outputs that have
    inputs under the same offsets stand side by side.

    A GPU computes tiles of outputs, and a tile does work for every offset under which any of its
    outputs has an input. Sorted like this, tiles of 64 outputs do 2.6 times the necessary work on a
    LiDAR frame with kernel size 3, instead of 3.5 to 5.5 times; and from stride 2 back to 1 with
    kernel size 2, where each output has one input, 1.1 instead of 8 times.
    """

    outputs: Tensor
    """int64 [M]: the output row of each column of the table."""
    inputs: Tensor
    """int32 [K, M]: the input row under each offset; -1 where there is none."""


def side_by_side(wanted: Sequence[Wanted]) -> list[Neighbours]:
    """Make tables on one device, and sort the outputs of each by the offsets under which they have
    inputs."""
    if wanted and triton_serves(wanted[0].keys.device):
        from sparsepipe.engine import triton_maps

        return triton_maps.side_by_side(wanted)
    return [sorted_by_offsets(look_up(one)) for one in wanted]


def sorted_by_offsets(table: Table) -> Neighbours:
    """Sort a table's outputs by the offsets under which they have inputs."""
    order = table.masks.argsort(stable=True)
    return Neighbours(outputs=order, inputs=table.inputs.index_select(1, order))


def same_rows(rows: int, device: torch.device) -> Neighbours:
    """The table of a kernel of one weight where inputs and outputs are the same voxels. It is a
    part of a larger one that is kept."""
    kept = _same_rows(1 << max(rows - 1, 0).bit_length(), device)
    return Neighbours(kept.outputs[:rows], kept.inputs[:, :rows])


@lru_cache(maxsize=64)
def _same_rows(rows: int, device: torch.device) -> Neighbours:
    """The table of so many rows. They come from the host, so that they are there for all streams of
    a GPU."""
    outputs = torch.arange(rows)
    return Neighbours(outputs.to(device), outputs.int()[None].to(device))


def pairs_of(table: Table) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of a table, sorted by offset and then by row: input rows and output rows, int32
    [P]; and the number of pairs of each offset, int64 [K]."""
    there = table.inputs >= 0
    offsets, outputs = there.nonzero().unbind(1)
    return table.inputs[offsets, outputs], outputs.int(), there.sum(1)
