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

Rows are looked up in a table of the box around the cloud, on a CPU by C++
(`sparsepipe.engine.compiled_maps`), elsewhere by PyTorch's operators (`sparsepipe.engine.lookup`);
or, where that box is too empty to afford a table, searched in the sorted keys (`search`).
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, count
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from sparsepipe.engine import compiled_maps
from sparsepipe.engine.axes import each
from sparsepipe.engine.coordinates import displacement
from sparsepipe.engine.kernel import Kernel as Kernel, Offset
from sparsepipe.engine.layouts import Block, Neighbours, cut, tabulate
from sparsepipe.engine.lookup import Pairs, look_up

_numbers = count()
_living: "WeakValueDictionary[int, KernelMap]" = WeakValueDictionary()
"""All kernel maps by the numbers of their handles."""


def of_handle(handle: Tensor) -> "KernelMap":
    """The kernel map that a handle stands for."""
    return _living[int(handle)]


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
    handle: Tensor = field(init=False, repr=False)
    """int64 []: a number that stands for the map in compiled graphs, which hold tensors alone."""
    _blocks: dict[int, list[Block]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        number = next(_numbers)
        _living[number] = self
        object.__setattr__(self, "handle", torch.tensor(number))

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
    def _by_output(self) -> tuple[Tensor, Tensor] | None:
        """`starts` and `inputs_by_output`, where there is C++ for them."""
        rows = len(self.output_keys)
        return compiled_maps.sorted_by_output(self.input_rows, self.output_rows, rows)

    @cached_property
    def starts(self) -> Tensor:
        """int32 [M + 1]: where the pairs of each output row start when all pairs are sorted by
        output row."""
        if self._by_output is not None:
            return self._by_output[0]
        neighbours = torch.bincount(self.output_rows, minlength=len(self.output_keys))
        return torch.nn.functional.pad(neighbours.cumsum(0), (1, 0)).int()

    @cached_property
    def inputs_by_output(self) -> Tensor:
        """int32 [P]: the input rows of all pairs, sorted by output row. Those of one output
        ascend."""
        if self._by_output is not None:
            return self._by_output[1]
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
    distinct). The coarse voxels need not be those that a strided layer makes of the fine ones."""
    found = compiled_maps.find_pairs(fine, coarse, kernel)
    if found is None:
        found = _find_pairs(fine, coarse, kernel)
    input_rows, output_rows, counts = found
    return KernelMap(
        kernel=kernel,
        transposed=False,
        input_keys=fine,
        output_keys=coarse,
        input_rows=input_rows,
        output_rows=output_rows,
        counts=tuple(counts.tolist()),
    )


def _find_pairs(fine: Tensor, coarse: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor, Tensor]:
    """What `compiled_maps.find_pairs` returns, by PyTorch's operators on any device."""
    # 1. Find the pairs of all offsets. Where inputs and outputs are the same voxels, an offset
    #    whose opposite one came before is left out, and so is the middle.
    wanted = list(kernel.offsets)
    if fine is coarse:
        seen: set[Offset] = set()
        for offset in wanted:
            if any(offset) and _opposite(offset) not in seen:
                seen.add(offset)
        wanted = [offset for offset in wanted if offset in seen]
    pairs = look_up(fine, coarse, wanted, kernel.fine_stride, kernel.reach)
    if pairs is None:
        pairs = search(fine, coarse, kernel, set(wanted))
    # 2. The offset in the middle pairs each row with itself, and opposite offsets have mirror
    #    images.
    if fine is coarse:
        rows = torch.arange(len(fine), dtype=torch.int32, device=fine.device)
        pairs[(0,) * kernel.dimension] = rows, rows
        for offset in wanted:
            inputs, outputs = pairs[offset]
            pairs[_opposite(offset)] = outputs, inputs
    # 3. Join them in the order of the kernel's weights.
    ordered = [pairs[offset] for offset in kernel.offsets]
    return (
        torch.cat([inputs for inputs, _ in ordered]),
        torch.cat([outputs for _, outputs in ordered]),
        torch.tensor([len(inputs) for inputs, _ in ordered]),
    )


def _opposite(offset: Offset) -> Offset:
    """The offset to the other side."""
    return tuple(-step for step in offset)


def search(fine: Tensor, coarse: Tensor, kernel: Kernel, wanted: set[Offset]) -> Pairs:
    """Find the pairs of some of a kernel's offsets by searching the sorted `fine` keys.

    Queries, the keys of u + o for all outputs u, ascend as the outputs do. One binary search finds
    their places for the lowest z of each column (x, y) of the kernel. For the next z, every query
    moves up, and its place moves up past as many voxels as lie between: that is a short walk
    instead of another search.

        keys     ... 17 18 20 25 ...          query 17 -> place of 17
                      ^                       query 18 -> one step up
    """
    fine_step = each(kernel.fine_stride, kernel.dimension)[-1]
    sentinel = fine.new_full((1,), torch.iinfo(fine.dtype).max)  # no voxel's key; ends every walk
    keys = torch.cat([fine, sentinel])
    columns: dict[Offset, list[int]] = {}
    for offset in sorted(wanted):
        columns.setdefault(offset[:-1], []).append(offset[-1])
    pairs = {}
    for column, heights in columns.items():
        queries = coarse + displacement(*column, heights[0])
        positions = torch.searchsorted(keys, queries, out_int32=True)
        for height, following in zip(heights, [*heights[1:], heights[-1]], strict=True):
            exists = keys.index_select(0, positions) == queries
            outputs = exists.nonzero().view(-1).int()
            pairs[*column, height] = positions.index_select(0, outputs), outputs
            queries += following - height
            for _ in range((following - height) // fine_step):  # at most so many lie in between
                positions += keys.index_select(0, positions) < queries
    return pairs
