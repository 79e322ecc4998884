"""Voxel coordinates int32 [N, 4] = (batch, x, y, z) as int64 keys, which sort batch first.

    key = ((batch * 2^17 + x) * 2^17 + y) * 2^17 + z

with signed x, y, z. Packing is linear: a kernel offset moves a key by adding `displacement`. Keys
order as coordinates do, and a neighbour's key is never another voxel's by carry, as long as
coordinates stay within `LIMIT` and kernels within `REACH`, which together fill a field.
"""

import torch
from torch import Tensor

from systems.schema import InputError

FIELD_BITS = 17
REACH = 2**12
"""How far a kernel may reach from a voxel, along an axis."""
LIMIT = 2 ** (FIELD_BITS - 1) - REACH
"""x, y and z are in [-LIMIT, LIMIT)."""
MAX_BATCH_SIZE = 2 ** (63 - 3 * FIELD_BITS)

_UNITS = tuple(1 << FIELD_BITS * place for place in (3, 2, 1, 0))


def pack(coordinates: Tensor) -> Tensor:
    """Keys int64 [N] of integer coordinates [N, 4] (batch, x, y, z).

    Raises:
        InputError: wrong shape or dtype, or a value that a key cannot hold.
    """
    if coordinates.ndim != 2 or coordinates.shape[1] != 4:
        raise InputError(
            f"coordinates have shape {list(coordinates.shape)}: give [N, 4] = (batch, x, y, z)"
        )
    if coordinates.is_floating_point() or coordinates.dtype == torch.bool:
        raise InputError(f"coordinates are {coordinates.dtype}: quantize them, give torch.int32")
    fields = [column.long() for column in coordinates.unbind(1)]
    if len(coordinates):
        _refuse_overflow(fields)
    return (
        fields[0] * _UNITS[0] + fields[1] * _UNITS[1] + fields[2] * _UNITS[2] + fields[3]
    )  # in place of a matrix product, which CUDA lacks for integers


def unpack(keys: Tensor) -> Tensor:
    """Coordinates int32 [N, 4] of keys int64 [N]: the inverse of `pack`."""
    half = 1 << (FIELD_BITS - 1)
    columns = []
    for _ in range(3):
        field = ((keys + half) & ((1 << FIELD_BITS) - 1)) - half
        columns.append(field)
        keys = (keys - field) >> FIELD_BITS
    return torch.stack([keys, *reversed(columns)], 1).int()


def check_stride(coordinates: Tensor, stride: int) -> None:
    """Refuse with InputError coordinates [N, 4] that are no multiples of a tensor stride."""
    if stride < 0:
        raise InputError(f"tensor stride {stride}: give 1, or what the strides so far multiply to")
    if stride == 1:
        return
    space = coordinates[:, 1:].long()
    wrong = int((space.remainder(stride) if stride else space).any(1).sum())
    if wrong:
        raise InputError(
            f"{wrong} of {len(coordinates)} coordinates are no multiples of the tensor stride "
            f"{stride}: give floor(c / {stride}) * {stride}, or tensor_stride=1"
        )


def batch_size_of(coordinates: Tensor, given: int | None) -> int:
    """How many samples coordinates [N, 4] are of: what was given, or the largest batch index + 1.

    Raises:
        InputError: there are none, or more samples than that.
    """
    least = int(coordinates[:, 0].long().amax()) + 1 if len(coordinates) else 0
    size = least if given is None else given
    if size < max(least, 1) or size > MAX_BATCH_SIZE:
        raise InputError(
            f"batch size {size} with batch indices up to {least - 1}: "
            f"give batch_size from {max(least, 1)} to {MAX_BATCH_SIZE}"
        )
    return size


def distinct(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each key once, sorted; the first row that has it; and for each row its key's place there.

    They are int64 [M], [M] and [N], for `keys` [N].
    """
    ordered, rows = keys.sort(stable=True)
    found, places, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    index = rows[counts.cumsum(0) - counts]
    return found, index, torch.empty_like(rows).scatter_(0, rows, places)


def displacement(x: int, y: int, z: int) -> int:
    """What moves a key by (x, y, z) voxels when added to it."""
    return x * _UNITS[1] + y * _UNITS[2] + z


def sample_displacement(samples: int) -> int:
    """What moves a key to `samples` samples later when added to it."""
    return samples * _UNITS[0]


def coarsened(keys: Tensor, stride: int) -> Tensor:
    """Distinct sorted keys of floor(c / stride) * stride, as MinkowskiEngine: -1 -> -2 at 2."""
    coordinates = unpack(keys)
    space = coordinates[:, 1:]
    space.sub_(space.remainder(stride))
    return torch.unique(pack(coordinates))


def sample_starts(batch_size: int, device: torch.device) -> Tensor:
    """int64 [batch_size + 1]: the keys of sample b are in [starts[b], starts[b + 1])."""
    batch = torch.arange(batch_size, device=device) * _UNITS[0] - _UNITS[0] // 2
    end = torch.full((1,), torch.iinfo(torch.int64).max, device=device)
    return torch.cat([batch, end])


def kernel_steps(size: int) -> range:
    """Where a kernel's weights sit along one axis, as in MinkowskiEngine: centred if `size` is odd,
    from 0 on if it is even."""
    return range(-(size // 2), size // 2 + 1) if size % 2 else range(size)


def kernel_offsets(size: int, spacing: int = 1) -> list[tuple[int, int, int]]:
    """The size^3 offsets (x, y, z) of a kernel in the order of its weights: x fastest.

    `spacing` is the dilation times the finer tensor stride.
    """
    steps = [step * spacing for step in kernel_steps(size)]
    return [(x, y, z) for z in steps for y in steps for x in steps]


def _refuse_overflow(fields: list[Tensor]) -> None:
    low, high = torch.stack([torch.stack(field.aminmax()) for field in fields]).T.tolist()
    if low[0] < 0 or high[0] >= MAX_BATCH_SIZE:
        raise InputError(
            f"batch index {low[0] if low[0] < 0 else high[0]} is not in [0, {MAX_BATCH_SIZE}): "
            "number the samples of a batch from 0"
        )
    for axis, lowest, highest in zip("xyz", low[1:], high[1:], strict=True):
        if lowest < -LIMIT or highest >= LIMIT:
            raise InputError(
                f"coordinate {axis} = {lowest if lowest < -LIMIT else highest} is not in "
                f"[{-LIMIT}, {LIMIT}): centre the cloud or take larger voxels"
            )
