"""Tensor fields: features of points that lie anywhere, before they are cut into voxels and after.

field = TensorField(features, places)       a row for each point
tensor = field.sparse()                     a row for each voxel: the mean of its points
field.slice(network(tensor))                a row for each point again: that of its voxel
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from sparsepipe.engine.axes import axes, each
from sparsepipe.engine.coordinates import checked_batch_size, pack
from sparsepipe.engine.interpolation import interpolate
from sparsepipe.engine.precision import taken
from sparsepipe.engine.quantize import Merging
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError


@dataclass(init=False, eq=False, repr=False)
class TensorField:
    """Features, one row for each point of a batch of clouds. Layers that look at no neighbours take
    fields as well."""

    features: Tensor
    """Floating point [P, C]."""
    places: Tensor
    """Floating point [P, 4] = (batch, x, y, z), in voxels of the finest grid; or of 1, 2 or 4
    axes."""
    batch_size: int
    """The number of samples, empty ones included."""

    def __init__(self, features: Tensor, places: Tensor, *, batch_size: int | None = None) -> None:
        """Make a field of features [P, C] and places [P, 4]. The batch indices are rounded.

        Raises:
            InputError: lengths, dtypes, shapes or devices do not fit, or places are not finite.
        """
        if features.ndim != 2 or not features.is_floating_point():
            raise InputError(
                f"features are {features.dtype} {list(features.shape)}: give floating point [P, C]"
            )
        if places.ndim != 2 or len(places) != len(features) or places.device != features.device:
            raise InputError(
                f"places {list(places.shape)} on {places.device} for features "
                f"{list(features.shape)} on {features.device}: give a row for each point"
            )
        if not bool(places.isfinite().all()):
            raise InputError("some places are NaN or infinite: remove them")
        self.features, self.places = (
            features,
            places if places.is_floating_point() else places.double(),
        )
        samples = self.places[:, 0].round()
        lowest, highest = map(int, samples.aminmax()) if len(samples) else (0, -1)
        if lowest < 0:
            raise InputError(f"batch index {lowest}: number the samples of a batch from 0")
        self.batch_size = checked_batch_size(highest, batch_size, places.shape[1] - 1)

    def replace(self, features: Tensor) -> Self:
        """Make a field at the same places with other features [P, C']."""
        field: Self = object.__new__(type(self))
        vars(field).update(vars(self), features=features)
        return field

    @property
    def channels(self) -> int:
        """C, the number of features of each point."""
        return self.features.shape[1]

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self)} points in {self.batch_size} samples, "
            f"{self.channels} channels, {self.features.dtype})"
        )

    def voxels(self, tensor_stride: Any) -> Tensor:
        """The voxel at a tensor stride that each point lies in, int64 [P, 4]."""
        strides = each(axes(tensor_stride, "tensor stride"), self.places.shape[1] - 1)
        if min(strides) < 1:
            raise InputError(f"tensor stride {tensor_stride}: points lie in voxels from 1 on")
        edges = torch.tensor(strides, device=self.places.device)
        space = (self.places[:, 1:].double() / edges).floor() * edges
        return torch.cat([self.places[:, :1].double().round(), space], 1).long()

    def sparse(self, tensor_stride: Any = 1, duplicates: Merging = "mean") -> SparseTensor:
        """Cut the points into voxels. `duplicates` says what happens to the points of one voxel;
        the voxels have the order of their first points."""
        voxels, size = self.voxels(tensor_stride), self.batch_size
        return SparseTensor(
            self.features, voxels, tensor_stride, batch_size=size, duplicates=duplicates
        )

    def rows(self, tensor: SparseTensor) -> Tensor:
        """The row of a tensor's features that each point lies in, int64 [P].

        Raises:
            InputError: some points lie in none of the tensor's voxels.
        """
        queries = pack(self.voxels(tensor.tensor_stride))
        keys = tensor.keys
        places = torch.searchsorted(keys, queries).clamp(max=max(len(keys) - 1, 0))
        outside = int((keys[places] != queries).sum()) if len(keys) else len(queries)
        if outside:
            raise InputError(
                f"{outside} of {len(self)} points lie in none of the voxels of {tensor}: take "
                "features_at, which counts these as zeros"
            )
        numbers = torch.arange(len(keys), device=keys.device)[:, None]
        return tensor.maps.sorted(tensor.tensor_stride, numbers)[places, 0]

    def slice(self, tensor: SparseTensor) -> Self:
        """The features of the voxel that each point lies in, at any tensor stride."""
        return self.replace(taken(tensor.features, self.rows(tensor)))

    def interpolated(self, tensor: SparseTensor) -> Self:
        """The features of a tensor, interpolated at each point as
        `sparsepipe.engine.interpolation.interpolate` does."""
        return self.replace(interpolate(tensor, self.places))
