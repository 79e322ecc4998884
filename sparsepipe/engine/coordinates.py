"""Keys: the coordinates (batch, x, y, z) of a voxel packed into one int64.

    key = ((batch * 2^17 + x) * 2^17 + y) * 2^17 + z       with signed x, y and z

    | batch, 12 bits | x, 17 bits | y, 17 bits | z, 17 bits |

Sorting keys sorts voxels by batch, then x, y and z. Packing is linear, so the key of the voxel at
u + o is the key of u plus a constant, the `displacement` of the offset o. A carry out of a field
would make it the key of another voxel. This cannot happen as long as coordinates stay within
`LIMIT` and kernels within `REACH`, since the two together just fill a field.
"""

import torch
from torch import Tensor

from systems.schema import InputError

FIELD_BITS = 17
"""The bits of a key that hold x, y or z."""
REACH = 2**12
"""How far a kernel may reach from a voxel along an axis, in voxels of the finest grid."""
LIMIT = 2 ** (FIELD_BITS - 1) - REACH
"""x, y and z must lie in [-LIMIT, LIMIT)."""
MAX_BATCH_SIZE = 2 ** (63 - 3 * FIELD_BITS)
"""The largest number of samples in a batch."""

_UNITS = tuple(1 << FIELD_BITS * place for place in (3, 2, 1, 0))


def pack(coordinates: Tensor) -> Tensor:
    """Pack integer coordinates [N, 4] = (batch, x, y, z) into keys int64 [N].

    Raises:
        InputError: the shape or dtype is wrong, or a key cannot hold one of the values.
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
    )  # written out, since CUDA has no matrix product for integers


def unpack(keys: Tensor) -> Tensor:
    """Unpack keys int64 [N] into coordinates int32 [N, 4]. It undoes `pack`."""
    half = 1 << (FIELD_BITS - 1)
    columns = []
    for _ in range(3):  # z, y and x, from the lowest bits up
        field = ((keys + half) & ((1 << FIELD_BITS) - 1)) - half
        columns.append(field)
        keys = (keys - field) >> FIELD_BITS
    return torch.stack([keys, *reversed(columns)], 1).int()


def check_stride(coordinates: Tensor, stride: int) -> None:
    """Check that x, y and z of coordinates [N, 4] are multiples of a tensor stride, and 0 if it is
    0.

    Raises:
        InputError: some are not, or the stride is negative.
    """
    if stride < 0:
        raise InputError(
            f"tensor stride {stride}: give 1, or the product of the strides of all earlier layers"
        )
    if stride == 1:
        return
    space = coordinates[:, 1:].long()
    wrong = int((space.remainder(stride) if stride else space).any(1).sum())
    if wrong:
        raise InputError(
            f"{wrong} of {len(coordinates)} coordinates are no multiples of the tensor stride "
            f"{stride}: give floor(c / {stride}) * {stride}, or tensor_stride=1"
        )


def batch_size_of(coordinates: Tensor, batch_size: int | None) -> int:
    """The number of samples that coordinates [N, 4] belong to. Where `batch_size` is None it is the
    largest batch index + 1.

    Raises:
        InputError: there are no samples, or `batch_size` is smaller than that or too large.
    """
    least = int(coordinates[:, 0].long().amax()) + 1 if len(coordinates) else 0
    size = least if batch_size is None else batch_size
    if size < max(least, 1) or size > MAX_BATCH_SIZE:
        raise InputError(
            f"batch size {size} with batch indices up to {least - 1}: "
            f"give batch_size from {max(least, 1)} to {MAX_BATCH_SIZE}"
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


def displacement(x: int, y: int, z: int) -> int:
    """The number that moves a key by (x, y, z) voxels when it is added to it."""
    return x * _UNITS[1] + y * _UNITS[2] + z


def sample_displacement(samples: int) -> int:
    """The number that moves a key `samples` samples further when it is added to it."""
    return samples * _UNITS[0]


def coarsened(keys: Tensor, stride: int) -> Tensor:
    """The keys of the voxels floor(c / stride) * stride for all voxels c in `keys`, distinct and
    sorted. As in MinkowskiEngine, it rounds down: -1 becomes -2 at stride 2."""
    coordinates = unpack(keys)
    space = coordinates[:, 1:]
    space.sub_(space.remainder(stride))
    return torch.unique(pack(coordinates))


def sample_starts(batch_size: int, device: torch.device) -> Tensor:
    """Bounds between the keys of samples, int64 [batch_size + 1]: the keys of sample b lie in
    [bounds[b], bounds[b + 1])."""
    batch = torch.arange(batch_size, device=device) * _UNITS[0] - _UNITS[0] // 2
    end = torch.full((1,), torch.iinfo(torch.int64).max, device=device)
    return torch.cat([batch, end])


def kernel_steps(size: int) -> range:
    """The places of a kernel's weights along one axis. As in MinkowskiEngine they are centred if
    `size` is odd (-1, 0, 1) and start at 0 if it is even (0, 1)."""
    return range(-(size // 2), size // 2 + 1) if size % 2 else range(size)


def kernel_offsets(size: int, spacing: int = 1) -> list[tuple[int, int, int]]:
    """The size^3 offsets (x, y, z) of a kernel, in the order of its weights: x changes fastest.

    `spacing` is the distance between neighbouring offsets, in voxels of the finest grid: the
    dilation times the finer tensor stride.
    """
    steps = [step * spacing for step in kernel_steps(size)]
    return [(x, y, z) for z in steps for y in steps for x in steps]


def _refuse_overflow(fields: list[Tensor]) -> None:
    """Raise InputError if a batch index or coordinate does not fit into its field of a key. The
    fields are batch, x, y and z, int64 [N] each."""
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
