"""Looking up neighbours in sorted keys: the input row of every output under every offset.

The key of the voxel at u + o is the key of u plus a number, and keys are sorted. So the row of that
voxel is the number of keys below it, if it has a key. All rows together are a table with a row for
each offset and a column for each output; -1 says that there is no voxel.

A GPU makes it with Triton's kernel (`sparsepipe.engine.triton_maps`), where there is one. PyTorch's
operators find the same. Neither needs the host to know how many pairs there are.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from sparsepipe.engine.axes import each
from sparsepipe.engine.coordinates import displacement
from sparsepipe.engine.kernel import Kernel
from sparsepipe.engine.triton_here import triton_serves

MOST_TABLES = 32
"""The tables whose outputs are sorted together at most."""
MASK_BITS = 58
"""The bits of an int64 that a set of offsets can use. Those above hold the number of a table."""
NARROW_BITS = 31
"""Those of an int32, which is sorted in half the time."""
MOST_STEPS = 8
"""A walk of more steps than this takes as long as a new search."""


class Table(NamedTuple):
    """The input rows of M outputs under K offsets."""

    inputs: Tensor
    """int32 [K, M]: the input row of each output under each offset, or -1."""
    masks: Tensor
    """int32 or int64 [M]: bit k says that an output has an input under offset k. Where there are
    more offsets than bits, neighbouring ones share a bit."""


class Wanted(NamedTuple):
    """What a table is made of."""

    keys: Tensor
    """int64 [N]: the voxels of the inputs, sorted and distinct."""
    queries: Tensor
    """int64 [M]: the voxels of the outputs, sorted and distinct."""
    kernel: Kernel
    backwards: bool
    """Whether the input v of an output u is voxel u - o for an offset o, as in a transposed layer,
    and not voxel u + o."""


class Search(NamedTuple):
    """How the inputs under one offset are found, after those of the offset before it."""

    move: int
    """What it adds to the key of an output."""
    steps: int
    """How many keys lie at most between an output's input under the offset before and that under
    this one; -1 where these are too many to walk past."""
    offset: int
    """The number of the offset among the kernel's weights."""
    bit: int
    """The bit of a mask that stands for it."""


def look_up(wanted: Wanted) -> Table:
    """Make the table of the input of each output under each offset."""
    keys, queries, kernel, backwards = wanted
    if triton_serves(keys.device):
        from sparsepipe.engine import triton_maps

        return triton_maps.look_up(wanted)
    if not len(keys):
        none = queries.new_full((len(kernel.offsets), len(queries)), -1, dtype=torch.int32)
        return Table(none, _masks(none))
    moved = queries + _moves(kernel, backwards, keys.device)[:, None]
    places = torch.searchsorted(keys, moved, out_int32=True).clamp_(max=len(keys) - 1)
    there = keys.index_select(0, places.view(-1)).view_as(moved) == moved
    inputs = places.masked_fill_(~there, -1)
    return Table(inputs, _masks(inputs))


def searches(kernel: Kernel, backwards: bool) -> list[Search]:
    """The searches for all offsets of a kernel. Offsets that differ along the last axis alone
    follow each other, so that most inputs are found by a walk of few steps from the input before:

        keys     ... 17 18 20 25 ...          query 17 -> place of 17
                      ^                       query 18 -> one step up
    """
    sign = -1 if backwards else 1
    step = each(kernel.coarse_stride if backwards else kernel.fine_stride, kernel.dimension)[-1]
    moves = [tuple(sign * along for along in offset) for offset in kernel.offsets]
    found: list[Search] = []
    column: tuple[int, ...] = ()
    height = 0
    for offset, number in sorted(zip(moves, range(len(moves)), strict=True)):
        steps = -(-(offset[-1] - height) // step) if offset[:-1] == column and found else -1
        steps = steps if steps <= MOST_STEPS else -1
        found.append(Search(displacement(*offset), steps, number, bit_of(number, len(moves))))
        column, height = offset[:-1], offset[-1]
    return found


def bits_for(offsets: int) -> int:
    """The bits of a mask of some offsets."""
    return -(-offsets // _sharing(offsets))


def bit_of(offset: int, offsets: int) -> int:
    """The bit that stands for an offset, out of some offsets."""
    return offset // _sharing(offsets)


def mask_type(offsets: int) -> torch.dtype:
    """The dtype of a mask of some offsets."""
    return torch.int32 if bits_for(offsets) <= NARROW_BITS else torch.int64


def _sharing(offsets: int) -> int:
    """How many offsets share a bit, out of some."""
    return -(-offsets // MASK_BITS)


@lru_cache(maxsize=256)
def _moves(kernel: Kernel, backwards: bool, device: torch.device) -> Tensor:
    """What each offset adds to a key, int64 [K]."""
    sign = -1 if backwards else 1
    moves = [sign * displacement(*offset) for offset in kernel.offsets]
    return torch.tensor(moves, device=device)


def _masks(inputs: Tensor) -> Tensor:
    """The masks of a table [K, M]."""
    offsets, outputs = inputs.shape
    bits, sharing = bits_for(offsets), _sharing(offsets)
    there = torch.nn.functional.pad(inputs >= 0, (0, 0, 0, bits * sharing - offsets))
    values = 1 << torch.arange(bits, device=inputs.device)
    present = there.view(bits, sharing, outputs).any(1) if sharing > 1 else there
    return (present * values[:, None]).sum(0).to(mask_type(offsets))
