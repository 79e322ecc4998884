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

A map is made on first use, as a backend needs it: as lists of pairs by C++ on a CPU
(`sparsepipe.engine.compiled_maps`), or elsewhere as the table of the input row of every output
under every offset (`sparsepipe.engine.lookup`). Either gives the other.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from sparsepipe.engine import compiled_maps
from sparsepipe.engine.kernel import Kernel as Kernel
from sparsepipe.engine.layouts import Block, Neighbours, cut, pairs_of, same_rows, side_by_side
from sparsepipe.engine.lookup import Wanted, look_up

Asked = dict[tuple[Kernel, bool], None]
"""The tables of some maps that were used: their kernels, and whether they are transposed."""

_numbers = count()
_living: "WeakValueDictionary[int, KernelMap]" = WeakValueDictionary()
"""All kernel maps by the numbers in their handles."""
_kernels: dict[Kernel, int] = {}
"""The kernels of all maps, numbered. They are few, and kept."""


def of_handle(handle: Tensor, input_keys: Tensor, output_keys: Tensor) -> "KernelMap":
    """The kernel map that a handle stands for, between these voxels. It is made anew where it is
    gone, as when a backward pass comes after the tensors that the forward pass was called with."""
    number, kernel, transposed = handle.tolist()
    found = _living.get(number)
    if found is not None:
        return found
    if input_keys.data_ptr() == output_keys.data_ptr() and len(input_keys) == len(output_keys):
        output_keys = input_keys  # a map to the same voxels knows it by identity
    return KernelMap(list(_kernels)[kernel], bool(transposed), input_keys, output_keys)


@dataclass(frozen=True, eq=False)
class KernelMap:
    """The pairs of rows that a kernel makes between voxels. All views of them are made on first use
    and kept."""

    kernel: Kernel
    transposed: bool
    """Whether the inputs are the coarse voxels."""
    input_keys: Tensor
    """int64 [N]: the voxels of the input."""
    output_keys: Tensor
    """int64 [M]: the voxels of the output."""
    asked: Asked = field(default_factory=dict, repr=False)
    """Where it is noted that somebody used the map's table; maps of the same voxels share it."""
    handle: Tensor = field(init=False, repr=False)
    """int64 [3]: what stands for the map in compiled graphs, which hold tensors alone: its number,
    that of its kernel, and whether it is transposed. Numbers are those of this process."""
    _blocks: dict[int, list[Block]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        number = next(_numbers)
        _living[number] = self
        kernel = _kernels.setdefault(self.kernel, len(_kernels))
        handle = torch.tensor([number, kernel, int(self.transposed)])
        object.__setattr__(self, "handle", handle)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and unpickled maps have handles of their own, and find their pairs again."""
        return KernelMap, (self.kernel, self.transposed, self.input_keys, self.output_keys)

    @property
    def volume(self) -> int:
        """K, the number of offsets."""
        return len(self.kernel.offsets)

    @cached_property
    def transpose(self) -> "KernelMap":
        """The map with inputs and outputs swapped, for transposed layers and for gradients."""
        swapped = self.output_keys, self.input_keys
        other = KernelMap(self.kernel, not self.transposed, *swapped, self.asked)
        other.__dict__["transpose"] = self
        return other

    @property
    def opposite(self) -> bool:
        """Whether this is the transpose of a map that is its own mirror image (see
        `Kernel.symmetric`): that map, with every offset replaced by the opposite one."""
        symmetric = self.kernel.symmetric and self.input_keys is self.output_keys
        return self.transposed and symmetric

    @property
    def _identical(self) -> bool:
        """Whether every output has the input of the same row, and no other."""
        middle = ((0,) * self.kernel.dimension,)
        return self.input_keys is self.output_keys and self.kernel.offsets == middle

    @cached_property
    def _pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """`input_rows`, `output_rows`, and the number of pairs of each offset, int64 [K]."""
        if self.transposed:
            inputs, outputs, counts = self.transpose._pairs
            return outputs, inputs, counts
        found = compiled_maps.find_pairs(self.input_keys, self.output_keys, self.kernel)
        return pairs_of(look_up(self._wanted)) if found is None else found

    @property
    def input_rows(self) -> Tensor:
        """int32 [P]: the row of the input in each pair. Pairs are sorted by offset; under one
        offset, input and output rows both ascend."""
        return self._pairs[0]

    @property
    def output_rows(self) -> Tensor:
        """int32 [P]: the row of the output in each pair."""
        return self._pairs[1]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """The number of pairs under each of the K offsets."""
        return tuple(self._pairs[2].tolist())

    @property
    def _wanted(self) -> Wanted:
        """What the table of the input row of every output under every offset is made of."""
        return Wanted(self.input_keys, self.output_keys, self.kernel, self.transposed)

    @cached_property
    def _by_output(self) -> tuple[Tensor, Tensor]:
        """`starts` and `inputs_by_output`."""
        rows, device = len(self.output_keys), self.output_rows.device
        found = compiled_maps.sorted_by_output(self.input_rows, self.output_rows, rows)
        if found is not None:
            return found
        inputs = max(len(self.input_keys), 1)
        pairs = (self.output_rows.long() * inputs + self.input_rows).sort().values
        edges = torch.arange(rows + 1, device=device) * inputs
        return torch.searchsorted(pairs, edges, out_int32=True), (pairs % inputs).int()

    @property
    def starts(self) -> Tensor:
        """int32 [M + 1]: where the pairs of each output row start when all pairs are sorted by
        output row."""
        return self._by_output[0]

    @property
    def inputs_by_output(self) -> Tensor:
        """int32 [P]: the input rows of all pairs, sorted by output row. Those of one output
        ascend."""
        return self._by_output[1]

    @cached_property
    def firsts(self) -> Tensor:
        """int64 [K + 1]: where the pairs of each offset start."""
        return torch.tensor([0, *accumulate(self.counts)], device=self.input_rows.device)

    @property
    def neighbours(self) -> Neighbours:
        """The map as a table with a row for each offset and a column for each output."""
        if not self._identical and not self.opposite:
            self.asked[self.kernel, self.transposed] = None
        return self._neighbours

    @cached_property
    def _neighbours(self) -> Neighbours:
        """Make the table."""
        if self._identical:
            return same_rows(len(self.input_keys), self.input_keys.device)
        if self.opposite:
            mirror = self.transpose.neighbours
            return Neighbours(mirror.outputs, mirror.inputs.flip(0))
        return side_by_side([self._wanted])[0]

    def blocks(self, rows: int) -> list[Block]:
        """The map cut into blocks of `rows` output rows."""
        if rows not in self._blocks:
            self._blocks[rows] = self._cut(rows)
        return self._blocks[rows]

    def _cut(self, rows: int) -> list[Block]:
        """Make the blocks."""
        if self.opposite:
            last = len(self.counts) - 1
            blocks = self.transpose.blocks(rows)
            return [replace(block, offsets=[last - k for k in block.offsets]) for block in blocks]
        return cut(self.input_rows, self.output_rows, self.counts, self.starts, rows)


def build(fine: Tensor, coarse: Tensor, kernel: Kernel, asked: Asked | None = None) -> KernelMap:
    """The kernel map from `fine` voxels to `coarse` voxels (keys int64, sorted and distinct). The
    coarse voxels need not be those that a strided layer makes of the fine ones."""
    return KernelMap(kernel, False, fine, coarse, {} if asked is None else asked)


def look_up_together(kernel_maps: Iterable[KernelMap]) -> None:
    """Make the tables that some kernel maps of voxels on one device do not have yet."""
    missing = [one for one in kernel_maps if "_neighbours" not in vars(one)]
    found = side_by_side([one._wanted for one in missing])
    for one, neighbours in zip(missing, found, strict=True):
        vars(one)["_neighbours"] = neighbours
