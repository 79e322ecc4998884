"""Keys: the coordinates (batch, x, y, z) of a voxel packed into one int64.

    key = ((batch * 2^17 + x) * 2^17 + y) * 2^17 + z       with signed x, y and z

    | batch, 12 bits | x, 17 bits | y, 17 bits | z, 17 bits |

Sorting keys sorts voxels by batch, then x, y and z. Packing is linear, so the key of the voxel at
u + o is the key of u plus a constant, the `displacement` of the offset o. A carry out of a field
would make it the key of another voxel. This cannot happen as long as coordinates stay within
`LIMIT` and kernels within `REACH`, since the two together just fill a field.

Grids of one, two and four axes are packed alike, with fields of other widths (`PACKINGS`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from operator import index

import torch
from torch import Tensor

from sparsepipe.engine.arrays import as_tensor
from sparsepipe.engine.axes import Axes, axes, each
from sparsepipe.engine.triton_here import triton_serves
from systems.schema import InputError


@dataclass(frozen=True)
class Packing:
    """How the coordinates of a grid of some axes are packed."""

    dimension: int
    """The number of axes of the grid."""
    bits: int
    """The bits of a key that hold the coordinate along an axis."""
    reach: int
    """How far a kernel may reach from a voxel along an axis, in voxels of the finest grid."""

    @property
    def limit(self) -> int:
        """Coordinates must lie in [-limit, limit)."""
        return 2 ** (self.bits - 1) - self.reach

    @property
    def max_batch_size(self) -> int:
        """The largest number of samples in a batch."""
        return 2 ** min(63 - self.dimension * self.bits, 31)

    @property
    def units(self) -> tuple[int, ...]:
        """What one step in each of the fields, the batch first, adds to a key."""
        return tuple(1 << self.bits * place for place in range(self.dimension, -1, -1))


PACKINGS = {
    1: Packing(1, 32, 2**12),
    2: Packing(2, 25, 2**12),
    3: Packing(3, 17, 2**12),
    4: Packing(4, 13, 2**9),
}
"""The packing of the grids of each number of axes."""
FIELD_BITS, REACH = PACKINGS[3].bits, PACKINGS[3].reach
LIMIT, MAX_BATCH_SIZE = PACKINGS[3].limit, PACKINGS[3].max_batch_size
"""Those of grids of three axes."""


def packing(dimension: int) -> Packing:
    """The packing of grids of some axes.

    Raises:
        InputError: there is none for as many.
    """
    if dimension not in PACKINGS:
        raise InputError(
            f"coordinates of {dimension} axes beside the batch: give [N, 4] = (batch, x, y, z), or "
            "1, 2 or 4 axes"
        )
    return PACKINGS[dimension]


def pack(coordinates: Tensor) -> Tensor:
    """Pack integer coordinates [N, 4] = (batch, x, y, z), or of 1, 2 or 4 axes, into keys int64
    [N].

    Raises:
        InputError: the shape or dtype is wrong, or a key cannot hold one of the values.
    """
    return packed(coordinates)[0]


def packed(coordinates: Tensor) -> tuple[Tensor, int, Tensor | None]:
    """What `pack` returns; the highest batch index, -1 where there are no voxels; and the numbers
    of the rows, 0, 1, ..., int64 [N], if the keys were seen to ascend."""
    if coordinates.ndim != 2 or coordinates.shape[1] - 1 not in PACKINGS:
        raise InputError(
            f"coordinates have shape {list(coordinates.shape)}: give [N, 4] = (batch, x, y, z), or "
            "1, 2 or 4 axes beside the batch"
        )
    if coordinates.is_floating_point() or coordinates.dtype == torch.bool:
        raise InputError(f"coordinates are {coordinates.dtype}: quantize them, give torch.int32")
    form = PACKINGS[coordinates.shape[1] - 1]
    fields = as_tensor("coordinates", coordinates)
    if not len(fields):
        return fields.new_empty(0, dtype=torch.int64), -1, None
    rows = None
    if triton_serves(fields.device):
        from sparsepipe.engine import triton_keys

        keys, rows, low, high = triton_keys.packed(fields, form)
    else:
        low, high = torch.stack(fields.aminmax(dim=0)).tolist()
        # A product and a sum in int64, since CUDA has no matrix product for integers.
        keys = (fields * _units(form, fields.device)).sum(1)
    _refuse_overflow(low, high, form)
    return keys, int(high[0]), rows


def unpack(keys: Tensor, dimension: int = 3) -> Tensor:
    """Unpack keys int64 [N] into coordinates int32 [N, 1 + dimension]. It undoes `pack`."""
    bits = packing(dimension).bits
    half = 1 << (bits - 1)
    columns = []
    for _ in range(dimension):  # z, y and x, from the lowest bits up
        field = ((keys + half) & ((1 << bits) - 1)) - half
        columns.append(field)
        keys = (keys - field) >> bits
    return torch.stack([keys, *reversed(columns)], 1).int()


def check_stride(coordinates: Tensor, stride: Axes) -> None:
    """Check that x, y and z of coordinates [N, 4] are multiples of a tensor stride, and 0 if it is
    0.

    Raises:
        InputError: some are not, or the stride is negative.
    """
    if stride == 1:
        return
    strides = each(stride, coordinates.shape[1] - 1, "tensor stride")
    if min(strides) < 0 or (min(strides) == 0) != (max(strides) == 0):
        raise InputError(
            f"tensor stride {stride}: give 1, or the product of the strides of all earlier layers"
        )
    space = coordinates[:, 1:].long()
    divisors = torch.tensor(strides, device=coordinates.device)
    wrong = int((space.remainder(divisors) if stride else space).any(1).sum())
    if wrong:
        raise InputError(
            f"{wrong} of {len(coordinates)} coordinates are no multiples of the tensor stride "
            f"{stride}: give floor(c / {stride}) * {stride}, or tensor_stride=1"
        )


def checked_batch_size(highest: int, batch_size: int | None, dimension: int) -> int:
    """The number of samples, where `highest` is the highest batch index that occurs. Where
    `batch_size` is None it is that index + 1.

    Raises:
        InputError: there are no samples, or `batch_size` is smaller than that or too large.
    """
    try:
        size = highest + 1 if batch_size is None else index(batch_size)
    except TypeError:
        raise InputError(f"batch size {batch_size!r}: give a whole number") from None
    least, most = max(highest + 1, 1), packing(dimension).max_batch_size
    if size < least or size > most:
        raise InputError(
            f"batch size {size} with batch indices up to {highest}: "
            f"give batch_size from {least} to {most}"
        )
    return size


def distinct(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the distinct keys among `keys`, int64 [N], which may be in any order.

    Returns:
        The distinct keys, int64 [M], sorted; the first row that has each of them, int64 [M]; and
        for each row the place of its key among the distinct ones, int64 [N].
    """
    ordered, rows = keys.sort(stable=True)
    unique, places, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    first_rows = rows[counts.cumsum(0) - counts]
    return unique, first_rows, torch.empty_like(rows).scatter_(0, rows, places)


def displacement(*offset: int) -> int:
    """The number that moves a key by an offset (x, y, z) when it is added to it."""
    units = packing(len(offset)).units[1:]
    return sum(step * unit for step, unit in zip(offset, units, strict=True))


def sample_displacement(samples: int, dimension: int = 3) -> int:
    """The number that moves a key `samples` samples further when it is added to it."""
    return samples * packing(dimension).units[0]


def coarsened(keys: Tensor, stride: Axes, dimension: int = 3) -> Tensor:
    """The keys of the voxels floor(c / stride) * stride for all voxels c in `keys`, distinct and
    sorted. As in MinkowskiEngine, it rounds down: -1 becomes -2 at stride 2."""
    coordinates = unpack(keys, dimension)
    space = coordinates[:, 1:]
    strides = torch.tensor(each(stride, dimension), dtype=torch.int32, device=keys.device)
    space.sub_(space.remainder(strides))
    return torch.unique(pack(coordinates))


def can_be_stacked(stride: Axes, dimension: int = 3) -> bool:
    """Whether `pyramid` serves a stride: all axes have powers of 2 that divide the limit of
    coordinates, so that none is rounded beyond it."""
    reach = packing(dimension).reach
    return all(s <= reach and s & (s - 1) == 0 for s in each(stride, dimension))


def pyramid(keys: Tensor, strides: Sequence[Axes], dimension: int = 3) -> list[Tensor]:
    """What `coarsened` returns for several strides, see `can_be_stacked`. The host waits once, for
    the sizes of all results.

    Where a key's fields are not negative, rounding down to a power of 2 clears the low bits of
    every field.
    """
    if not len(keys):
        return [keys for _ in strides]
    half = displacement(*(1 << packing(dimension).bits - 1 for _ in range(dimension)))
    kept = _kept_bits(tuple(strides), dimension, keys.device)
    levels = (((keys + half) & kept) - half).sort(1).values  # [strides, N]
    begins = torch.ones_like(levels, dtype=torch.bool)  # where a key differs from that before it
    torch.ne(levels[:, 1:], levels[:, :-1], out=begins[:, 1:])
    places = begins.view(-1).cumsum(0)  # from 1 on
    ends = places[len(keys) - 1 :: len(keys)].tolist()
    found = keys.new_empty(1 + ends[-1]).scatter_(0, places, levels.view(-1))[1:]
    return list(found.split([end - start for start, end in pairwise([0, *ends])]))


def sample_starts(batch_size: int, device: torch.device, dimension: int = 3) -> Tensor:
    """Bounds between the keys of samples, int64 [batch_size + 1]: the keys of sample b lie in
    [bounds[b], bounds[b + 1])."""
    unit = packing(dimension).units[0]
    batch = torch.arange(batch_size, device=device) * unit - unit // 2
    end = torch.full((1,), torch.iinfo(torch.int64).max, device=device)
    return torch.cat([batch, end])


def kernel_steps(size: int) -> range:
    """The places of a kernel's weights along one axis. As in MinkowskiEngine they are centred if
    `size` is odd (-1, 0, 1) and start at 0 if it is even (0, 1)."""
    return range(-(size // 2), size // 2 + 1) if size % 2 else range(size)


def kernel_offsets(size: Axes, spacing: Axes = 1, dimension: int = 3) -> list[tuple[int, ...]]:
    """The offsets (x, y, z) of a kernel, size^3 of them where all axes are alike, in the order of
    its weights: x changes fastest.

    `spacing` is the distance between neighbouring offsets, in voxels of the finest grid: the
    dilation times the finer tensor stride.
    """
    sizes, spacings = each(axes(size), dimension), each(axes(spacing), dimension)
    steps = [
        [step * space for step in kernel_steps(length)]
        for length, space in zip(sizes, spacings, strict=True)
    ]
    return [tuple(reversed(offset)) for offset in product(*reversed(steps))]


@lru_cache(maxsize=64)
def _units(form: Packing, device: torch.device) -> Tensor:
    """What one step in each of the fields adds to a key, int64 [1 + axes], on a device."""
    return torch.tensor(form.units, device=device)


@lru_cache(maxsize=64)
def _kept_bits(strides: tuple[Axes, ...], dimension: int, device: torch.device) -> Tensor:
    """The bits of a key that rounding to each stride keeps, int64 [strides, 1], on a device."""
    cleared = [displacement(*(s - 1 for s in each(stride, dimension))) for stride in strides]
    return torch.tensor([[~bits] for bits in cleared], device=device)


def _refuse_overflow(low: list[int], high: list[int], form: Packing) -> None:
    """Raise InputError if a batch index or coordinate does not fit into its field of a key. Given
    are the smallest and the largest number of each field, the batch first."""
    if low[0] < 0 or high[0] >= form.max_batch_size:
        raise InputError(
            f"batch index {low[0] if low[0] < 0 else high[0]} is not in "
            f"[0, {form.max_batch_size}): number the samples of a batch from 0"
        )
    for axis, lowest, highest in zip("xyzt", low[1:], high[1:], strict=False):
        if lowest < -form.limit or highest >= form.limit:
            raise InputError(
                f"coordinate {axis} = {lowest if lowest < -form.limit else highest} is not in "
                f"[{-form.limit}, {form.limit}): centre the cloud or take larger voxels"
            )
