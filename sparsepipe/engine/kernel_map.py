"""Kernel maps: which input rows meet which output rows, under each of a kernel's offsets.

y[u] = sum over offsets o of x[u + o] W[o], for the voxels u + o that exist. They are looked up in a
table of the box around the cloud (`sparsepipe.engine.lookup`), or searched where the box is too
empty: neighbours of voxels in sorted order are in sorted order too, so each column (x, y) of a
kernel is searched once, at its lowest z; from there on the search walks to the next voxels above.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from sparsepipe.engine.coordinates import (
    REACH,
    displacement,
    kernel_offsets,
    kernel_steps,
)
from sparsepipe.engine.layouts import Block, Neighbours, cut, tabulate
from sparsepipe.engine.lookup import Offset, Pairs, look_up
from systems.schema import InputError


@dataclass(frozen=True)
class Kernel:
    """The geometry of a kernel between two tensor strides; `fine_stride` divides `coarse_stride`.

    Offsets are spaced by dilation x `fine_stride`, in both directions.
    """

    size: int
    dilation: int
    fine_stride: int
    coarse_stride: int

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
        """Voxels of the finest grid from one weight to the next."""
        return self.dilation * self.fine_stride

    @property
    def symmetric(self) -> bool:
        """Whether u + o = v for a pair (v, u) makes (u, v) a pair of the opposite offset."""
        return self.size % 2 == 1 and self.fine_stride == self.coarse_stride


@dataclass(frozen=True, eq=False)
class KernelMap:
    """P pairs of rows, offset after offset; within one, input and output rows both ascend.

    `input_rows` and `output_rows` are int32 [P], `counts` the pairs of each offset, `input_keys`
    and `output_keys` the voxels (for backends that build maps of their own). `transposed` is true
    if inputs are the coarse side. What is derived is kept.
    """

    kernel: Kernel
    transposed: bool
    input_keys: Tensor
    output_keys: Tensor
    input_rows: Tensor
    output_rows: Tensor
    counts: tuple[int, ...]
    _blocks: dict[int, list[Block]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def transpose(self) -> "KernelMap":
        """Inputs and outputs swapped: for transposed layers, and for gradients."""
        other = KernelMap(
            *(self.kernel, not self.transposed, self.output_keys, self.input_keys),
            *(self.output_rows, self.input_rows, self.counts),
        )
        other.__dict__["transpose"] = self
        return other

    @cached_property
    def starts(self) -> Tensor:
        """int32 [outputs + 1]: where each output's pairs start when sorted by output row."""
        neighbours = torch.bincount(self.output_rows, minlength=len(self.output_keys))
        return torch.nn.functional.pad(neighbours.cumsum(0), (1, 0)).int()

    @cached_property
    def inputs_by_output(self) -> Tensor:
        """int32 [P]: the input rows sorted by output row; those of one output ascend."""
        inputs = max(len(self.input_keys), 1)
        pairs = (self.output_rows.long() * inputs + self.input_rows).sort().values
        return (pairs % inputs).int()

    @cached_property
    def firsts(self) -> Tensor:
        """int64 [K + 1]: where each offset's pairs start."""
        return torch.tensor([0, *accumulate(self.counts)], device=self.input_rows.device)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The map as a table of outputs and offsets."""
        return tabulate(self.input_rows, self.output_rows, self.counts, len(self.output_keys))

    def blocks(self, rows: int) -> list[Block]:
        """The map cut into blocks of `rows` outputs."""
        if rows not in self._blocks:
            self._blocks[rows] = self._cut(rows)
        return self._blocks[rows]

    def _cut(self, rows: int) -> list[Block]:
        if self.transposed and self.kernel.symmetric:  # the same pairs under the opposite offsets
            last = len(self.counts) - 1
            blocks = self.transpose.blocks(rows)
            return [replace(block, offsets=[last - k for k in block.offsets]) for block in blocks]
        return cut(self.input_rows, self.output_rows, self.counts, self.starts, rows)


def build(fine: Tensor, coarse: Tensor, kernel: Kernel) -> KernelMap:
    """The map of a convolution from `fine` keys to `coarse` keys (int64, sorted, distinct).

    Half of a symmetric kernel's map is the mirror image of the other half.
    """
    offsets = kernel_offsets(kernel.size, kernel.spacing)
    sought = offsets[: len(offsets) // 2] if kernel.symmetric else offsets
    pairs = look_up(fine, coarse, sought, kernel.fine_stride, kernel.size * kernel.spacing)
    if pairs is None:
        pairs = search(fine, coarse, kernel, set(sought))
    if kernel.symmetric:
        rows = torch.arange(len(fine), dtype=torch.int32, device=fine.device)
        pairs[0, 0, 0] = rows, rows
        for x, y, z in sought:
            inputs, outputs = pairs[x, y, z]
            pairs[-x, -y, -z] = outputs, inputs
    found = [pairs[offset] for offset in offsets]
    return KernelMap(
        *(kernel, False, fine, coarse),
        *(torch.cat([inputs for inputs, _ in found]), torch.cat([outputs for _, outputs in found])),
        tuple(len(inputs) for inputs, _ in found),
    )


def search(fine: Tensor, coarse: Tensor, kernel: Kernel, sought: set[Offset]) -> Pairs:
    """The pairs of the offsets that are `sought`, found in sorted keys."""
    steps = [step * kernel.spacing for step in kernel_steps(kernel.size)]
    sentinel = fine.new_full((1,), torch.iinfo(fine.dtype).max)  # no voxel's key; ends every walk
    keys = torch.cat([fine, sentinel])
    pairs = {}
    for x, y in [(x, y) for y in steps for x in steps]:
        column = [z for z in steps if (x, y, z) in sought]
        if not column:
            continue
        queries = coarse + displacement(x, y, column[0])
        positions = torch.searchsorted(keys, queries, out_int32=True)
        for z in column:
            found = keys.index_select(0, positions) == queries
            outputs = found.nonzero().view(-1).int()
            pairs[x, y, z] = positions.index_select(0, outputs), outputs
            queries += kernel.spacing
            for _ in range(kernel.dilation):  # there are at most that many voxels in between
                positions += keys.index_select(0, positions) < queries
    return pairs
