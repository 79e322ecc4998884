"""Kernel maps: which input rows meet which output rows under each offset of a kernel.

A sparse convolution is y[u] = sum over offsets o of x[u + o] W[o], over the voxels u + o that
exist. A dense one finds x[u + o] by arithmetic on array indices. Here rows are in the order of the
keys, and the row of the voxel u + o must be found. The kernel map is the result of finding all of
them: for every offset, the list of the pairs (input row v, output row u) with voxel v = voxel u +
offset. After that, a convolution is: for every offset, gather rows v, multiply them by W[o], add to
rows u.

    voxels with their rows     pairs of a kernel of size 3 along x (offsets -1, 0, 1)

    x:  0   1   2   3   4      offset -1    (0, 1)            voxel 0 lies left of voxel 1
      [#0][#1]    [#2]         offset  0    (0, 0) (1, 1) (2, 2)
                               offset +1    (1, 0)            voxel 1 lies right of voxel 0

The picture shows why half of a map is the mirror image of the other half where inputs and outputs
are the same voxels: (v, u) under o is (u, v) under -o.

Rows are looked up in a table of the box around the cloud (`sparsepipe.engine.lookup`), or, where
that box is too empty to afford a table, searched in the sorted keys (`search`).
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from sparsepipe.engine.coordinates import REACH, displacement, kernel_offsets, kernel_steps
from sparsepipe.engine.layouts import Block, Neighbours, cut, tabulate
from sparsepipe.engine.lookup import Offset, Pairs, look_up
from systems.schema import InputError


@dataclass(frozen=True)
class Kernel:
    """The geometry of a kernel between the voxels at two tensor strides.

    Raises:
        InputError: one stride does not divide the other, or a number is too small or too large.
    """

    size: int
    """The number of weights along each axis."""
    dilation: int
    """The distance between neighbouring weights, in steps of the fine stride."""
    fine_stride: int
    """The tensor stride of the finer voxels; it divides `coarse_stride`."""
    coarse_stride: int
    """The tensor stride of the coarser voxels. It equals `fine_stride` in layers of stride 1."""

    def __post_init__(self) -> None:
        if min(self.fine_stride, self.coarse_stride) < 1 or self.coarse_stride % self.fine_stride:
            raise InputError(
                f"no kernel joins tensor strides {self.fine_stride} and {self.coarse_stride}: "
                "one must divide the other, and neither be 0 (a globally pooled tensor)"
            )
        if self.size < 1 or self.dilation < 1:
            raise InputError(
                f"kernel size {self.size}, dilation {self.dilation}: give whole numbers from 1 on"
            )
        if self.size * self.spacing > REACH:
            raise InputError(
                f"kernel size {self.size} at dilation {self.dilation} and tensor stride "
                f"{self.fine_stride} reaches beyond {REACH} voxels: take a smaller one"
            )

    @property
    def spacing(self) -> int:
        """The distance between neighbouring weights, in voxels of the finest grid."""
        return self.dilation * self.fine_stride

    @property
    def symmetric(self) -> bool:
        """Whether the map is its own mirror image: for each pair (v, u) under an offset, (u, v) is
        a pair under the opposite one. Inputs and outputs must be the same voxels, and the size
        odd."""
        return self.size % 2 == 1 and self.fine_stride == self.coarse_stride


@dataclass(frozen=True, eq=False)
class KernelMap:
    """P pairs of rows, sorted by offset. Under one offset, input and output rows both ascend.

    Other views of the same pairs, which the backends need, are made on first use and kept.
    """

    kernel: Kernel
    transposed: bool
    """Whether the inputs are the coarse voxels."""
    input_keys: Tensor
    """int64 [N]: the voxels of the input."""
    output_keys: Tensor
    """int64 [M]: the voxels of the output."""
    input_rows: Tensor
    """int32 [P]: the row of the input in each pair."""
    output_rows: Tensor
    """int32 [P]: the row of the output in each pair."""
    counts: tuple[int, ...]
    """The number of pairs under each of the K offsets."""
    _blocks: dict[int, list[Block]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def transpose(self) -> "KernelMap":
        """The map with inputs and outputs swapped, for transposed layers and for gradients."""
        other = KernelMap(
            kernel=self.kernel,
            transposed=not self.transposed,
            input_keys=self.output_keys,
            output_keys=self.input_keys,
            input_rows=self.output_rows,
            output_rows=self.input_rows,
            counts=self.counts,
        )
        other.__dict__["transpose"] = self
        return other

    @cached_property
    def starts(self) -> Tensor:
        """int32 [M + 1]: where the pairs of each output row start when all pairs are sorted by
        output row."""
        neighbours = torch.bincount(self.output_rows, minlength=len(self.output_keys))
        return torch.nn.functional.pad(neighbours.cumsum(0), (1, 0)).int()

    @cached_property
    def inputs_by_output(self) -> Tensor:
        """int32 [P]: the input rows of all pairs, sorted by output row. Those of one output
        ascend."""
        inputs = max(len(self.input_keys), 1)
        pairs = (self.output_rows.long() * inputs + self.input_rows).sort().values
        return (pairs % inputs).int()

    @cached_property
    def firsts(self) -> Tensor:
        """int64 [K + 1]: where the pairs of each offset start."""
        return torch.tensor([0, *accumulate(self.counts)], device=self.input_rows.device)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The map as a table with a row for each offset and a column for each output."""
        return tabulate(self.input_rows, self.output_rows, self.counts, len(self.output_keys))

    def blocks(self, rows: int) -> list[Block]:
        """The map cut into blocks of `rows` output rows."""
        if rows not in self._blocks:
            self._blocks[rows] = self._cut(rows)
        return self._blocks[rows]

    def _cut(self, rows: int) -> list[Block]:
        """Make the blocks. Those of a transposed symmetric map are the blocks of the map itself,
        with every offset replaced by the opposite one."""
        if self.transposed and self.kernel.symmetric:
            last = len(self.counts) - 1
            blocks = self.transpose.blocks(rows)
            return [replace(block, offsets=[last - k for k in block.offsets]) for block in blocks]
        return cut(self.input_rows, self.output_rows, self.counts, self.starts, rows)


def build(fine: Tensor, coarse: Tensor, kernel: Kernel) -> KernelMap:
    """Make the kernel map from `fine` voxels to `coarse` voxels (keys int64, sorted and
    distinct)."""
    offsets = kernel_offsets(kernel.size, kernel.spacing)
    # 1. Find the pairs of all offsets; for a symmetric kernel, of the first half of them.
    half = offsets[: len(offsets) // 2] if kernel.symmetric else offsets
    pairs = look_up(fine, coarse, half, kernel.fine_stride, kernel.size * kernel.spacing)
    if pairs is None:
        pairs = search(fine, coarse, kernel, set(half))
    # 2. The offset in the middle pairs each row with itself, and the second half is the mirror
    #    image of the first.
    if kernel.symmetric:
        rows = torch.arange(len(fine), dtype=torch.int32, device=fine.device)
        pairs[0, 0, 0] = rows, rows
        for x, y, z in half:
            inputs, outputs = pairs[x, y, z]
            pairs[-x, -y, -z] = outputs, inputs
    # 3. Join them in the order of the kernel's weights.
    ordered = [pairs[offset] for offset in offsets]
    return KernelMap(
        kernel=kernel,
        transposed=False,
        input_keys=fine,
        output_keys=coarse,
        input_rows=torch.cat([inputs for inputs, _ in ordered]),
        output_rows=torch.cat([outputs for _, outputs in ordered]),
        counts=tuple(len(inputs) for inputs, _ in ordered),
    )


def search(fine: Tensor, coarse: Tensor, kernel: Kernel, wanted: set[Offset]) -> Pairs:
    """Find the pairs of some of a kernel's offsets by searching the sorted `fine` keys.

    Queries, the keys of u + o for all outputs u, ascend as the outputs do. One binary search finds
    their places for the lowest z of each column (x, y) of the kernel. For the next z, every query
    moves up by the kernel's spacing, and its place moves up past at most `dilation` voxels: that is
    a short walk instead of another search.

        keys     ... 17 18 20 25 ...          query 17 -> place of 17
                      ^                       query 18 -> one step up
    """
    steps = [step * kernel.spacing for step in kernel_steps(kernel.size)]
    sentinel = fine.new_full((1,), torch.iinfo(fine.dtype).max)  # no voxel's key; ends every walk
    keys = torch.cat([fine, sentinel])
    pairs = {}
    for x, y in [(x, y) for y in steps for x in steps]:
        column = [z for z in steps if (x, y, z) in wanted]
        if not column:
            continue
        queries = coarse + displacement(x, y, column[0])
        positions = torch.searchsorted(keys, queries, out_int32=True)
        for z in column:
            exists = keys.index_select(0, positions) == queries
            outputs = exists.nonzero().view(-1).int()
            pairs[x, y, z] = positions.index_select(0, outputs), outputs
            queries += kernel.spacing
            for _ in range(kernel.dilation):  # at most that many voxels lie in between
                positions += keys.index_select(0, positions) < queries
    return pairs
