"""MinkowskiEngine's SparseTensor and TensorField, on this package's."""

import warnings
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from sparsepipe.engine import field, tensor as engine
from sparsepipe.engine.arrays import int32_tensor
from sparsepipe.engine.axes import axes, each
from sparsepipe.engine.given import Duplicates
from sparsepipe.engine.interpolation import interpolate
from sparsepipe.engine.nested import register
from sparsepipe.minkowski.places import CoordinateManager, CoordinateMapKey
from sparsepipe.minkowski.rows import Rows
from systems.schema import InputError


class SparseTensorQuantizationMode(Enum):
    """What happens to rows of equal coordinates."""

    RANDOM_SUBSAMPLE = 0
    UNWEIGHTED_AVERAGE = 1
    UNWEIGHTED_SUM = 2
    NO_QUANTIZATION = 3
    MAX_POOL = 4
    SPLAT_LINEAR_INTERPOLATION = 5


_DUPLICATES: dict[SparseTensorQuantizationMode, Duplicates] = {
    SparseTensorQuantizationMode.RANDOM_SUBSAMPLE: "first",
    SparseTensorQuantizationMode.UNWEIGHTED_AVERAGE: "mean",
    SparseTensorQuantizationMode.UNWEIGHTED_SUM: "sum",
    SparseTensorQuantizationMode.NO_QUANTIZATION: "refuse",
    SparseTensorQuantizationMode.MAX_POOL: "max",
}


def duplicates_of(mode: SparseTensorQuantizationMode) -> Duplicates:
    """What this package calls a quantization mode."""
    if mode not in _DUPLICATES:
        raise InputError(
            f"{mode} is not here: give one of {', '.join(m.name for m in _DUPLICATES)}"
        )
    return _DUPLICATES[mode]


class SparseTensor(engine.SparseTensor, Rows):
    """`sparsepipe.engine.tensor.SparseTensor` under MinkowskiEngine's names. Layers return tensors
    of this class if their input is of it."""

    quantization_mode = SparseTensorQuantizationMode.RANDOM_SUBSAMPLE

    def __init__(
        self,
        features: Tensor,
        coordinates: Tensor | None = None,
        tensor_stride: Any = 1,
        coordinate_map_key: CoordinateMapKey | None = None,
        coordinate_manager: CoordinateManager | None = None,
        quantization_mode: SparseTensorQuantizationMode = quantization_mode,
        allocator_type: Any = None,
        minkowski_algorithm: Any = None,
        requires_grad: bool | None = None,
        device: Any = None,
    ) -> None:
        """Make a tensor of features [N, C], and of coordinates [N, D + 1] or the key of a tensor on
        the same ones. Allocator and algorithm have no effect."""
        features = features if device is None else features.to(device)
        self.quantization_mode = quantization_mode
        if coordinate_map_key is not None:
            if coordinates is not None:
                raise InputError("give coordinates or coordinate_map_key, not both")
            at = coordinate_map_key.device
            if not features.is_floating_point() or features.device != at:
                raise InputError(
                    f"features are {features.dtype} on {features.device}: give floating point on "
                    f"{at}, where the coordinates are"
                )
            self.maps = coordinate_map_key.maps
            self.features, self.tensor_stride = features, coordinate_map_key.stride
            self.maps.check(coordinate_map_key.stride, features)
        else:
            if coordinates is not None:
                coordinates = _whole(coordinates if device is None else coordinates.to(device))
            super().__init__(
                features, coordinates, tensor_stride, duplicates=duplicates_of(quantization_mode)
            )
        if requires_grad is not None:
            self.features.requires_grad_(requires_grad)

    @property  # type: ignore[override]
    def tensor_stride(self) -> list[int]:
        """The tensor stride along each axis."""
        return list(each(self._stride, self.dimension))

    @tensor_stride.setter
    def tensor_stride(self, stride: Any) -> None:
        self._stride = axes(stride)

    @property
    def C(self) -> Tensor:
        """The coordinates, int32 [N, D + 1], the batch first."""
        return self.coordinates

    @property
    def samples(self) -> int:
        """The number of samples, empty ones included."""
        return self.batch_size

    @property
    def coordinate_map_key(self) -> CoordinateMapKey:
        """The coordinates, to make other tensors of."""
        return CoordinateMapKey(self.maps, self._stride)

    @property
    def coordinate_manager(self) -> CoordinateManager:
        """MinkowskiEngine's functions on keys."""
        return CoordinateManager(self.dimension, maps=self.maps)

    @property
    def coordinate_key(self) -> CoordinateMapKey:
        """The same as `coordinate_map_key`."""
        return self.coordinate_map_key

    @property
    def unique_index(self) -> Tensor:
        """The given row that each row is, int64 [N]."""
        return self.order

    @property
    def inverse_mapping(self) -> Tensor:
        """The row that each given row was merged into, int64."""
        return self.inverse

    def dense(  # type: ignore[override]
        self, shape: Any = None, min_coordinate: Any = None, contract_stride: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The features in a grid [B, C, X, Y, Z] from `min_coordinate` on, as large as `shape` or
        as it must be; the coordinates of its first cell [1, D]; and the tensor stride [D].

        Raises:
            InputError: voxels lie outside of the grid, or there are none and no `shape`.
        """
        steps = torch.tensor(self.tensor_stride, dtype=torch.int32)
        cell = steps.clamp(min=1) if contract_stride else torch.ones_like(steps)
        space = self.coordinates[:, 1:]
        if not len(self) and shape is None:
            raise InputError("a grid of a tensor without voxels: give shape")
        first = torch.as_tensor(0 if min_coordinate is None else min_coordinate)
        first = first.to(space).expand(1, self.D)[0]
        index = (space - first).div(cell.to(space.device), rounding_mode="floor").long()
        sizes = (index.amax(0) + 1).tolist() if shape is None else list(shape[2:])
        samples = self.batch_size if shape is None else shape[0]
        inside = (index >= 0) & (index < torch.tensor(sizes, device=index.device))
        if samples < self.batch_size or not bool(inside.all()):
            raise InputError(
                f"a grid of {samples} samples and {sizes} cells from {first.tolist()} on does not "
                f"hold all voxels of {self}: give min_coordinate or a larger shape"
            )
        grid = self.features.new_zeros(samples, *sizes, self.channels)
        places = (self.coordinates[:, 0].long(), *index.unbind(1))
        return grid.index_put(places, self.features).movedim(-1, 1), first[None], steps

    def slice(self, X: "TensorField | SparseTensor") -> "TensorField":
        """The features of the voxel that each point of X lies in; of a tensor X with merged
        duplicates, that each given row was merged into."""
        if isinstance(X, TensorField):
            return X.slice(self)
        places = X.coordinates[X.inverse].double()
        of_rows = X.features.new_zeros(len(places), 0)
        return TensorField._at(of_rows, places, X.batch_size).slice(self)

    def cat_slice(self, X: "TensorField | SparseTensor") -> "TensorField":
        """`slice`, with the features of X after it."""
        sliced = self.slice(X)
        theirs = X.features if isinstance(X, TensorField) else X.features[X.inverse]
        return sliced.replace(torch.cat([sliced.features, theirs], 1))

    def interpolate(self, X: "TensorField") -> "TensorField":
        """The features at the points of X, interpolated."""
        return X.interpolated(self)

    def features_at_coordinates(self, query_coordinates: Tensor) -> Tensor:
        """The features at floating-point coordinates [M, D + 1], interpolated; [M, C]."""
        return interpolate(self, query_coordinates)


class TensorField(field.TensorField, Rows):
    """`sparsepipe.engine.field.TensorField` under MinkowskiEngine's names."""

    def __init__(
        self,
        features: Tensor,
        coordinates: Tensor | None = None,
        tensor_stride: Any = 1,
        coordinate_field_map_key: "TensorField | None" = None,
        coordinate_manager: CoordinateManager | None = None,
        quantization_mode: SparseTensorQuantizationMode = (
            SparseTensorQuantizationMode.UNWEIGHTED_AVERAGE
        ),
        allocator_type: Any = None,
        minkowski_algorithm: Any = None,
        requires_grad: bool | None = None,
        device: Any = None,
    ) -> None:
        """Make a field of features [P, C], and of coordinates [P, D + 1] or the key of a field at
        the same ones. Allocator and algorithm have no effect."""
        if axes(tensor_stride) != 1:
            raise InputError(f"a field of tensor_stride {tensor_stride} is not here: leave it out")
        duplicates_of(quantization_mode)  # refuses what is not here
        size = None
        if coordinate_field_map_key is not None:
            coordinates, size = coordinate_field_map_key.places, coordinate_field_map_key.batch_size
        if coordinates is None:
            raise InputError("a field without coordinates: give coordinates [P, D + 1]")
        if device is not None:
            features, coordinates = features.to(device), coordinates.to(device)
        super().__init__(features, coordinates, batch_size=size)
        self.quantization_mode = quantization_mode
        if requires_grad is not None:
            self.features.requires_grad_(requires_grad)

    @classmethod
    def _at(cls, features: Tensor, places: Tensor, batch_size: int) -> "TensorField":
        """A field of a number of samples, of which the last ones may be empty."""
        made = cls(features, places)
        made.batch_size = batch_size
        return made

    @property
    def C(self) -> Tensor:
        """The coordinates, floating point [P, D + 1], the batch first."""
        return self.places

    coordinates = C

    @property
    def samples(self) -> int:
        """The number of samples, empty ones included."""
        return self.batch_size

    @property
    def coordinate_field_map_key(self) -> "TensorField":
        """The places, to make other fields of."""
        return self

    coordinate_key = coordinate_field_map_key

    @property
    def coordinate_manager(self) -> CoordinateManager:
        """MinkowskiEngine's functions on keys."""
        return CoordinateManager(self.D)

    def sparse(  # type: ignore[override]
        self,
        tensor_stride: Any = 1,
        coordinate_map_key: CoordinateMapKey | None = None,
        quantization_mode: SparseTensorQuantizationMode | None = None,
    ) -> SparseTensor:
        """Cut the points into voxels."""
        if coordinate_map_key is not None:
            raise InputError("sparse(coordinate_map_key=...) is not here: leave it out")
        duplicates = duplicates_of(quantization_mode or self.quantization_mode)
        if duplicates == "refuse":
            raise InputError("points without quantization: give another quantization_mode")
        made = super().sparse(axes(tensor_stride), duplicates)
        return SparseTensor._made(made.features, made.tensor_stride, made.maps)

    def splat(self) -> SparseTensor:
        """Not here."""
        raise InputError("TensorField.splat is not here: take sparse()")

    def inverse_mapping(self, sparse_tensor_map_key: CoordinateMapKey) -> Tensor:
        """The row that each point lies in, int64 [P]."""
        maps, stride = sparse_tensor_map_key.maps, sparse_tensor_map_key.stride
        rows = torch.zeros(len(maps.keys(stride)), 1, device=self.places.device)
        return self.rows(SparseTensor._made(rows, stride, maps))


def _whole(coordinates: Tensor) -> Tensor:
    """Coordinates as int32. Floating-point ones are rounded down, with a warning."""
    if coordinates.is_floating_point():
        warnings.warn("coordinates are rounded down: give .int()", stacklevel=3)
    return int32_tensor("coordinates", coordinates)


def tensor_at(tensor: SparseTensor, place: Any, stride: Any) -> SparseTensor:
    """The tensor whose voxels a layer's argument `coordinates` names: a tensor, a key, or
    coordinates int [N, D + 1] at a tensor stride."""
    if isinstance(place, SparseTensor):
        return place
    if not isinstance(place, CoordinateMapKey):
        rows = torch.zeros(len(place), 1, device=place.device)
        given = engine.SparseTensor(
            rows, _whole(place), stride, batch_size=tensor.batch_size, duplicates="first"
        )
        place = CoordinateMapKey(given.maps, axes(stride))
    rows = tensor.features.new_zeros(len(place.maps.keys(place.stride)), 1)
    return SparseTensor._made(rows, place.stride, place.maps)


register(SparseTensor)
