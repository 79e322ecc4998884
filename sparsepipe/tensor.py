"""Sparse tensors: features of the occupied voxels of a batch of grids."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsepipe.coordinate_maps import CoordinateMaps
from sparsepipe.coordinates import MAX_BATCH_SIZE, pack
from sparsepipe.traceable import traceable
from systems.schema import InputError


class SparseTensor:
    """Features [N, C], one row for each voxel, in the order of the voxels' keys: batch first.

    A sample's rows are thus a slice. `tensor_stride` is the distance of neighbouring voxels on the
    finest grid; 0 after global pooling. `maps` is shared by all tensors made from this one.
    """

    features: Tensor
    tensor_stride: int
    maps: CoordinateMaps

    def __init__(
        self,
        features: Tensor,
        coordinates: Tensor,
        tensor_stride: int = 1,
        *,
        batch_size: int | None = None,
    ) -> None:
        """Check and sort.

        Args:
            features: [N, C]; sorted along with the coordinates, differentiably. Rows that come from
                `sparse_quantize` and `collate` are in order and stay where they are.
            coordinates: int32 [N, 4] = (batch, x, y, z), distinct, multiples of `tensor_stride`.
            tensor_stride: 1 for clouds; else what a tensor that is sent on had.
            batch_size: by default the largest batch index + 1; more if the last samples are empty.

        Raises:
            InputError: lengths, devices, shapes or types that do not fit, duplicates, overflow.
        """
        _check_features(features, coordinates)
        keys = pack(coordinates)
        _check_stride(coordinates, tensor_stride)
        batch_size = _batch_size(coordinates, batch_size)
        if not bool((keys[1:] > keys[:-1]).all()):
            keys, order = keys.sort()
            _refuse_duplicates(keys)
            features = features.index_select(0, order)
        self.features = features
        self.tensor_stride = tensor_stride
        self.maps = CoordinateMaps(keys, tensor_stride, batch_size)

    @classmethod
    def on(cls, maps: CoordinateMaps, tensor_stride: int, features: Tensor) -> "SparseTensor":
        """A tensor on voxels that exist in `maps`.

        Raises:
            InputError: the number of rows is not that of the voxels.
        """
        rows = len(maps.keys(tensor_stride))
        if features.ndim != 2 or len(features) != rows:
            raise InputError(f"features {list(features.shape)} for {rows} voxels: give [{rows}, C]")
        tensor = cls.__new__(cls)
        tensor.features, tensor.tensor_stride, tensor.maps = features, tensor_stride, maps
        return tensor

    def replace(self, features: Tensor) -> "SparseTensor":
        """The same voxels with other features [N, C']."""
        return SparseTensor.on(self.maps, self.tensor_stride, features)

    @property
    def coordinates(self) -> Tensor:
        """int32 [N, 4] = (batch, x, y, z), sorted."""
        return self.maps.coordinates(self.tensor_stride)

    @property
    def keys(self) -> Tensor:
        """The packed coordinates, int64 [N], sorted."""
        return self.maps.keys(self.tensor_stride)

    @property
    def batch_size(self) -> int:
        """How many samples there are, empty ones included."""
        return self.maps.batch_size

    @property
    def channels(self) -> int:
        """C."""
        return self.features.shape[1]

    @property
    def decomposed(self) -> tuple[Tensor, ...]:
        """Each sample's features [N_b, C]: views, [0, C] for an empty sample."""
        return self.features.split(self.maps.sizes(self.tensor_stride))

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return (
            f"SparseTensor({len(self)} voxels in {self.batch_size} samples, {self.channels} "
            f"channels, {self.features.dtype}, tensor stride {self.tensor_stride})"
        )

    def __add__(self, other: "SparseTensor") -> "SparseTensor":
        _refuse_other_voxels([self, other])
        if self.channels != other.channels:
            raise InputError(
                f"{self.channels} and {other.channels} channels cannot be added: use cat"
            )
        return self.replace(self.features + other.features)

    def dense(self) -> tuple[Tensor, Tensor]:
        """The smallest grid around all samples, zero where there is no voxel, and its first corner.

        Returns:
            [B, C, X, Y, Z] in steps of the tensor stride, differentiable; int32 [3] = (x, y, z).

        Raises:
            InputError: there is no voxel at all.
        """
        if not len(self):
            raise InputError("a tensor without voxels has no grid: check len(tensor) first")
        coordinates = self.coordinates
        first = coordinates[:, 1:].amin(0)
        cells = (coordinates[:, 1:] - first) // max(self.tensor_stride, 1)
        shape = (self.batch_size, *(cells.amax(0) + 1).tolist(), self.channels)
        index = (coordinates[:, 0].long(), *cells.long().unbind(1))
        return self.features.new_zeros(shape).index_put(index, self.features).movedim(-1, 1), first


@traceable
def cat(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """The channels of tensors on the same voxels, one after the other.

    Raises:
        InputError: no tensors, or they are on different voxels.
    """
    if not tensors:
        raise InputError("cat of no tensors: give at least one")
    _refuse_other_voxels(tensors)
    return tensors[0].replace(torch.cat([tensor.features for tensor in tensors], 1))


def _refuse_other_voxels(tensors: Sequence[SparseTensor]) -> None:
    first = tensors[0]
    for tensor in tensors[1:]:
        if tensor.features.device != first.features.device:
            raise InputError(
                f"tensors on {first.features.device} and {tensor.features.device}: move one"
            )
        same = tensor.keys is first.keys or torch.equal(tensor.keys, first.keys)
        same &= tensor.tensor_stride == first.tensor_stride
        if not same or tensor.batch_size != first.batch_size:
            raise InputError(
                f"{first} and {tensor} are on different voxels: bring them to the same stride of "
                "the same clouds first"
            )


def _check_features(features: Tensor, coordinates: Tensor) -> None:
    if features.ndim != 2 or not features.is_floating_point():
        raise InputError(
            f"features are {features.dtype} {list(features.shape)}: give floating point [N, C]"
        )
    if len(features) != len(coordinates):
        raise InputError(
            f"{len(features)} rows of features, {len(coordinates)} of coordinates: give one each"
        )
    if features.device != coordinates.device:
        raise InputError(
            f"features on {features.device}, coordinates on {coordinates.device}: "
            "move them to one device"
        )


def _check_stride(coordinates: Tensor, stride: int) -> None:
    if stride < 0:
        raise InputError(f"tensor stride {stride}: give 1, or what the strides so far multiply to")
    space = coordinates[:, 1:]
    wrong = int((space.remainder(stride) if stride else space).any(1).sum())
    if wrong:
        raise InputError(
            f"{wrong} of {len(coordinates)} coordinates are no multiples of the tensor stride "
            f"{stride}: give floor(c / {stride}) * {stride}, or tensor_stride=1"
        )


def _batch_size(coordinates: Tensor, given: int | None) -> int:
    least = int(coordinates[:, 0].amax()) + 1 if len(coordinates) else 0
    size = least if given is None else given
    if size < max(least, 1) or size > MAX_BATCH_SIZE:
        raise InputError(
            f"batch size {size} with batch indices up to {least - 1}: "
            f"give batch_size from {max(least, 1)} to {MAX_BATCH_SIZE}"
        )
    return size


def _refuse_duplicates(keys: Tensor) -> None:
    repeated = int((keys[1:] == keys[:-1]).sum())
    if repeated:
        raise InputError(
            f"{repeated} of {len(keys)} coordinates are duplicates: merge them with "
            "sparsepipe.quantize.sparse_quantize first"
        )
