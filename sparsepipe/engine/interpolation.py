"""Features between voxels, as MinkowskiEngine's MinkowskiInterpolation gives them."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsepipe.engine.coordinates import LIMIT, pack
from sparsepipe.engine.precision import widened
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError


def interpolate(tensor: SparseTensor, places: Tensor) -> Tensor:
    """Trilinear interpolation of features [N, C] at M places: [M, C], in the type of the features.

    A voxel's value lies at its coordinates, which are its lower corner: a point's place is
    point / voxel_size. Each place takes from the eight voxels around it, which are a tensor stride
    apart. Voxels that do not exist count as zeros. A place that lies on a voxel takes that
    voxel's features alone. Sums are in float32 or wider. Gradients go to the features and not to
    the places.

    Args:
        places: floating point [M, 4] = (batch, x, y, z), in voxels of the finest grid. The batch
            index is rounded.

    Raises:
        InputError: a globally pooled tensor; places of another shape, type or device, not finite,
            or of samples that do not exist.
    """
    _check(tensor, places)
    places, stride = places.detach().double(), tensor.tensor_stride
    sample, space = places[:, :1].round().long(), places[:, 1:] / stride
    low = space.floor()
    beyond = space - low
    weights, rows = [], []
    for corner in product((0, 1), repeat=3):
        upper = torch.tensor(corner, dtype=torch.bool, device=places.device)
        weight = torch.where(upper, beyond, 1 - beyond).prod(1)
        row = _rows(tensor, sample, ((low + upper) * stride))
        weights.append(weight)
        rows.append(row.masked_fill(weight == 0, len(tensor)))  # a NaN times zero is a NaN
    features = tensor.rows
    values = F.pad(widened(features), (0, 0, 0, 1))  # zeros for no voxel
    summed = F.embedding_bag(
        torch.stack(rows, 1),
        values,
        per_sample_weights=torch.stack(weights, 1).to(values.dtype),
        mode="sum",
    )
    return summed.to(features.dtype)


def _rows(tensor: SparseTensor, sample: Tensor, space: Tensor) -> Tensor:
    """int64 [M]: the sorted row of the voxel at each of the coordinates; N where there is none."""
    keys = tensor.maps.keys(tensor.tensor_stride)
    inside = ((space >= -LIMIT) & (space < LIMIT)).all(1)
    sought = pack(torch.cat([sample, space.where(inside[:, None], 0).long()], 1))
    rows = torch.searchsorted(keys, sought)
    sentinel = keys.new_full((1,), torch.iinfo(keys.dtype).max)  # no voxel's key
    found = torch.cat([keys, sentinel]).index_select(0, rows) == sought
    return rows.masked_fill(~(found & inside), len(keys))


def _check(tensor: SparseTensor, places: Tensor) -> None:
    if tensor.tensor_stride == 0:
        raise InputError("a globally pooled tensor has no voxels to interpolate between")
    if places.ndim != 2 or places.shape[1] != 4 or not places.is_floating_point():
        raise InputError(
            f"places are {places.dtype} {list(places.shape)}: give floating point [M, 4] = "
            "(batch, x, y, z)"
        )
    if places.device != tensor.features.device:
        raise InputError(
            f"features on {tensor.features.device}, places on {places.device}: move one"
        )
    if not bool(places.isfinite().all()):
        raise InputError("places that are NaN or infinite: remove them")
    samples = places[:, 0].round()
    if not bool(((samples >= 0) & (samples < tensor.batch_size)).all()):
        raise InputError(
            f"places of samples that do not exist: give batch indices 0 to {tensor.batch_size - 1}"
        )
