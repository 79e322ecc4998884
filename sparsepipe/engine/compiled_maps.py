"""Coordinate and kernel maps on a CPU with the C++ of `csrc/voxels.cpp`, which is built on first
use.

Every function returns None where it does not serve: on another device, where nothing could be
built, for no voxels, or, to coarsen, where the box around them is too empty for a table or a voxel
would lie beyond the limits. The caller then uses PyTorch's operators, which find the same, or say
which coordinate is wrong.
"""

import ctypes
import functools
from collections.abc import Callable, Iterable
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from sparsepipe.engine import buffers
from sparsepipe.engine.axes import Axes, each
from sparsepipe.engine.coordinates import packing
from sparsepipe.engine.kernel import Kernel
from systems.build import library

SOURCE = Path(__file__).parent / "csrc" / "voxels.cpp"
CELLS_PER_VOXEL = 128
"""The largest number of cells for each voxel for which a table is made."""
LEAST_CELLS = 2**16
"""The cells of a box that is affordable for any number of voxels."""


@functools.cache
def functions() -> ctypes.CDLL | None:
    """Build and load the functions. Returns None, with a warning, where that fails."""
    return library(SOURCE, "kernel maps are made with PyTorch's operators, slower")


def coarsened(keys: Tensor, stride: Axes, dimension: int) -> Tensor | None:
    """See `sparsepipe.engine.coordinates.coarsened`."""
    function = _function("coarsen", keys)
    if function is None:
        return None
    coarse = torch.empty_like(keys)
    form, steps = packing(dimension), _numbers(each(stride, dimension))
    found = function(
        *_keys(keys),
        c_int(dimension),
        c_int(form.bits),
        c_int64(form.limit),
        steps,
        c_int64(_affordable(keys)),
        _address(coarse),
    )
    return None if found < 0 else coarse[:found].clone()


def find_pairs(
    fine: Tensor, coarse: Tensor, kernel: Kernel
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Find the pairs of a kernel map.

    Returns:
        The input rows and the output rows, int32 [P], sorted by offset and then by row; and the
        number of pairs of each offset, int64 [K].
    """
    function = _function("find_pairs", fine) if len(coarse) else None
    if function is None:
        return None
    offsets = kernel.offsets
    room = min(len(fine), len(coarse)) + 1  # one more is written than is found
    scratch = [buffers.empty((len(offsets) * room,), torch.int32) for _ in range(2)]
    counts, origins = (torch.empty(len(offsets), dtype=torch.int64) for _ in range(2))
    found = function(
        *_keys(fine),
        *_keys(coarse),
        c_int(fine is coarse),
        c_int(kernel.dimension),
        c_int(packing(kernel.dimension).bits),
        _numbers(each(kernel.fine_stride, kernel.dimension)),
        _numbers(step for offset in offsets for step in offset),
        c_int64(len(offsets)),
        c_int64(_affordable(fine)),
        c_int64(room),
        *map(_address, (*scratch, counts, origins)),
    )
    pairs = [buffers.empty((found,), torch.int32) for _ in range(2)]
    join = _function("join_pairs", fine)
    assert join is not None
    join(
        *map(_address, scratch),
        c_int64(room),
        c_int64(len(offsets)),
        *map(_address, (counts, origins, *pairs)),
    )
    return pairs[0], pairs[1], counts


def sorted_by_output(inputs: Tensor, outputs: Tensor, rows: int) -> tuple[Tensor, Tensor] | None:
    """Sort the pairs of a kernel map of `rows` outputs by output row.

    Returns:
        Where the pairs of each output start, int32 [rows + 1]; and the input rows, int32 [P], those
        of one output ascending.
    """
    function = _function("sort_by_output", inputs)
    if function is None:
        return None
    starts, ordered = torch.empty(rows + 1, dtype=torch.int32), torch.empty_like(inputs)
    function(
        _address(inputs),
        _address(outputs),
        c_int64(len(inputs)),
        c_int64(rows),
        _address(starts),
        _address(ordered),
    )
    return starts, ordered


def _function(name: str, values: Tensor) -> Callable[..., int] | None:
    """A function for these values, or None where there is none for them."""
    if values.device.type != "cpu" or not len(values) or not values.is_contiguous():
        return None
    loaded = functions()
    if loaded is None:
        return None
    function: Callable[..., int] = getattr(loaded, name)
    function.restype = c_int64  # type: ignore[attr-defined]
    return function


def _address(values: Tensor) -> c_void_p:
    """The address of a tensor's first number."""
    return c_void_p(values.data_ptr())


def _keys(keys: Tensor) -> tuple[c_void_p, c_int64]:
    """Keys as the functions take them: their address and their number."""
    return _address(keys), c_int64(len(keys))


def _affordable(keys: Tensor) -> int:
    """The largest number of cells of a table for some voxels."""
    return max(CELLS_PER_VOXEL * len(keys), LEAST_CELLS)


def _numbers(values: Iterable[int]) -> ctypes.Array[c_int64]:
    """Whole numbers as a C array."""
    numbers = tuple(values)
    return (c_int64 * len(numbers))(*numbers)
