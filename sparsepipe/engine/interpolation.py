"""Features at places between voxels, as MinkowskiEngine's MinkowskiInterpolation computes them."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsepipe.engine.axes import axes, each
from sparsepipe.engine.coordinates import pack, packing
from sparsepipe.engine.precision import widened
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError


def interpolate(tensor: SparseTensor, places: Tensor) -> Tensor:
    """Interpolate the features of a sparse tensor trilinearly.

    A voxel's value lies at its coordinates, which are its lower corner, so the place of a point is
    point / voxel_size. Each place takes its value from the eight voxels around it, which are a
    tensor stride apart (2^d voxels in a grid of d axes). Voxels that do not exist count as zeros. A
    place that lies on a voxel takes that voxel's features alone. Sums are taken in float32 or
    wider. Gradients go to the features and not to the places.

    Args:
        tensor: features [N, C].
        places: floating point [M, 4] = (batch, x, y, z), in voxels of the finest grid. The batch
            index is rounded.

    Returns:
        [M, C] in the dtype of the features.

    Raises:
        InputError: the tensor is globally pooled; or the places have another shape, dtype or
            device, are not finite, or belong to samples that do not exist.
    """
    _check(tensor, places)
    places = places.detach().double()
    strides = each(axes(tensor.tensor_stride), tensor.dimension)
    stride = torch.tensor(strides, dtype=torch.float64, device=places.device)
    sample, space = places[:, :1].round().long(), places[:, 1:] / stride
    low = space.floor()
    beyond = space - low  # in [0, 1): how far each place lies beyond the lower voxels
    weights, rows = [], []
    for corner in product((0, 1), repeat=tensor.dimension):  # the voxels around each place
        upper = torch.tensor(corner, dtype=torch.bool, device=places.device)
        weight = torch.where(upper, beyond, 1 - beyond).prod(1)
        row = _rows(tensor, sample, ((low + upper) * stride))
        weights.append(weight)
        rows.append(row.masked_fill(weight == 0, len(tensor)))  # else a NaN times zero is NaN
    features = tensor.rows
    values = F.pad(widened(features), (0, 0, 0, 1))  # row N, zeros, is that of no voxel
    summed = F.embedding_bag(
        torch.stack(rows, 1),
        values,
        per_sample_weights=torch.stack(weights, 1).to(values.dtype),
        mode="sum",
    )
    return summed.to(features.dtype)


def _rows(tensor: SparseTensor, sample: Tensor, space: Tensor) -> Tensor:
    """Find the row, in the order of the keys, of the voxel at each of M coordinates. `sample` is
    [M, 1] and `space` [M, 3].

    Returns:
        int64 [M]; N, the number of voxels, where there is no voxel.
    """
    keys = tensor.maps.keys(tensor.tensor_stride)
    limit = packing(tensor.dimension).limit
    inside = ((space >= -limit) & (space < limit)).all(1)
    queries = pack(torch.cat([sample, space.where(inside[:, None], 0).long()], 1))
    rows = torch.searchsorted(keys, queries)
    sentinel = keys.new_full((1,), torch.iinfo(keys.dtype).max)  # no voxel's key
    exists = torch.cat([keys, sentinel]).index_select(0, rows) == queries
    return rows.masked_fill(~(exists & inside), len(keys))


def _check(tensor: SparseTensor, places: Tensor) -> None:
    """Raise the errors of `interpolate`."""
    if axes(tensor.tensor_stride) == 0:
        raise InputError("a globally pooled tensor has no voxels to interpolate between")
    columns = tensor.dimension + 1
    if places.ndim != 2 or places.shape[1] != columns or not places.is_floating_point():
        raise InputError(
            f"places are {places.dtype} {list(places.shape)}: give floating point [M, {columns}] "
            f"= (batch, {', '.join('xyzt'[: tensor.dimension])})"
        )
    if places.device != tensor.features.device:
        raise InputError(
            f"features on {tensor.features.device}, places on {places.device}: move one"
        )
    if not bool(places.isfinite().all()):
        raise InputError("some places are NaN or infinite: remove them")
    samples = places[:, 0].round()
    if not bool(((samples >= 0) & (samples < tensor.batch_size)).all()):
        raise InputError(
            f"some places are in samples that do not exist: give batch indices 0 to "
            f"{tensor.batch_size - 1}"
        )
