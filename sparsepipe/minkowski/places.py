"""Thin views on this package's coordinate maps under MinkowskiEngine's names: keys and managers.

In MinkowskiEngine a manager holds all coordinates and a key names some of them. Here a key holds
its coordinates itself, and the manager is only the place where its functions are looked up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from sparsepipe.engine.arrays import int32_tensor
from sparsepipe.engine.axes import Axes, axes, each, quotient
from sparsepipe.engine.coordinate_maps import CoordinateMaps
from sparsepipe.engine.kernel import Kernel, Shape, shape_of
from sparsepipe.engine.kernel_map import build
from sparsepipe.engine.tensor import SparseTensor as Sparse
from systems.schema import InputError


class RegionType(Enum):
    """The places of a kernel's weights."""

    HYPER_CUBE = 0
    HYPER_CROSS = 1
    CUSTOM = 2


def shape_from(region_type: Any, offsets: Any) -> Any:
    """The shape of a kernel, as this package's layers take it. MinkowskiEngine's functions take the
    region type as a number too."""
    region = RegionType(region_type)
    if region is RegionType.CUSTOM:
        if offsets is None or not len(offsets):
            raise InputError("region_type CUSTOM without region_offsets: give them, [K, axes]")
        return shape_of(offsets)
    return "cube" if region is RegionType.HYPER_CUBE else "cross"


@dataclass(frozen=True, eq=False)
class CoordinateMapKey:
    """The coordinates of a tensor: those at one tensor stride of some maps."""

    maps: CoordinateMaps
    stride: Axes

    def get_tensor_stride(self) -> list[int]:
        """The tensor stride along each axis."""
        return list(each(self.stride, self.maps.dimension))

    def get_coordinate_size(self) -> int:
        """The number of columns of the coordinates, the batch included."""
        return self.maps.dimension + 1

    @property
    def device(self) -> torch.device:
        """The device of the coordinates."""
        return self._keys.device

    def is_key_set(self) -> bool:
        """Whether it names coordinates; here every key does."""
        return True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CoordinateMapKey):
            return NotImplemented
        return self.stride == other.stride and self._keys is other._keys

    def __hash__(self) -> int:
        return hash((self.stride, id(self._keys)))

    @property
    def _keys(self) -> Tensor:
        return self.maps.keys(self.stride)

    def on_rows(self, rows: Tensor) -> Tensor:
        """The rows of a tensor's features, for rows in the order of the keys."""
        order = self.maps.order(self.stride)
        sorting = None if order is None else order.sorting
        return rows.long() if sorting is None else sorting[rows.long()]


class CoordinateManager:
    """MinkowskiEngine's functions on keys. All managers of one dimension are alike."""

    def __init__(self, D: int = 3, *args: Any, maps: CoordinateMaps | None = None, **kwargs: Any):
        """`D` is the number of axes. Threads, allocators and algorithms are accepted, and without
        effect. `maps` are those of the tensor that the manager was asked of."""
        self.D, self._maps = D, maps

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CoordinateManager) and other.D == self.D

    def __hash__(self) -> int:
        return hash((CoordinateManager, self.D))

    def insert_and_map(
        self, coordinates: Tensor, tensor_stride: Any = 1, string_id: str = ""
    ) -> tuple[CoordinateMapKey, tuple[Tensor, Tensor]]:
        """A key of coordinates [N, D + 1], which may have duplicates; the first row of each voxel;
        and the voxel of each row. Floating-point ones are rounded down. `string_id` has no effect:
        every call makes a key of its own."""
        rows = torch.zeros(len(coordinates), 1, device=coordinates.device)
        voxels = int32_tensor("coordinates", coordinates)
        tensor = Sparse(rows, voxels, tensor_stride, duplicates="first")
        key = CoordinateMapKey(tensor.maps, axes(tensor_stride))
        return key, (tensor.order, tensor.inverse)

    def stride(self, key: CoordinateMapKey, stride: Any, string_id: str = "") -> CoordinateMapKey:
        """The key of the coordinates at `stride` times the tensor stride."""
        return CoordinateMapKey(key.maps, key.maps.coarsen(key.stride, axes(stride)))

    def origin(self) -> CoordinateMapKey:
        """The key of the rows of global pooling."""
        maps = self._held("origin")
        return CoordinateMapKey(maps, maps.pool(maps.strides[-1]))

    def get_coordinates(self, key: Any) -> Tensor:
        """The coordinates of a key, or of a tensor stride, int32 [N, D + 1]."""
        key = self._key(key)
        return key.maps.unsorted(key.stride, key.maps.coordinates(key.stride))

    def size(self, key: Any) -> int:
        """The number of coordinates."""
        key = self._key(key)
        return len(key.maps.keys(key.stride))

    def number_of_unique_batch_indices(self) -> int:
        """The number of samples, empty ones included."""
        return self._held("number_of_unique_batch_indices").batch_size

    def origin_map(self, key: Any) -> tuple[Tensor, list[Tensor]]:
        """The numbers of the samples, and the rows of each."""
        key = self._key(key)
        rows = key.on_rows(torch.arange(self.size(key), device=key.maps.keys(key.stride).device))
        samples = rows.split(key.maps.sizes(key.stride))
        return torch.arange(len(samples)), [of_sample.sort().values for of_sample in samples]

    def kernel_map(
        self,
        in_key: Any,
        out_key: Any,
        stride: Any = 1,
        kernel_size: Any = 3,
        dilation: Any = 1,
        region_type: Any = RegionType.HYPER_CUBE,
        region_offset: Any = None,
        is_transpose: bool = False,
        is_pool: bool = False,
    ) -> dict[int, Tensor]:
        """For every offset that has pairs, the input rows and the output rows of its pairs, int32
        [2, pairs]. The tensor strides are those of the keys, whatever `stride` says."""
        fine, coarse = self._key(in_key), self._key(out_key)
        if is_transpose:
            fine, coarse = coarse, fine
        if quotient(coarse.stride, fine.stride) is None:
            raise InputError(
                f"kernel_map from tensor stride {fine.stride} to {coarse.stride}: the first must "
                "divide the second; give is_transpose=True for the other way"
            )
        size = axes(kernel_size, "kernel size")
        shape: Shape = "cube" if size == 1 else shape_from(region_type, region_offset)
        kernel = Kernel(size, axes(dilation), fine.stride, coarse.stride, shape, self.D)
        built = build(fine.maps.keys(fine.stride), coarse.maps.keys(coarse.stride), kernel)
        pairs = torch.stack([fine.on_rows(built.input_rows), coarse.on_rows(built.output_rows)])
        pairs = pairs.flip(0) if is_transpose else pairs
        parts = pairs.int().split(list(built.counts), 1)
        return {k: part for k, part in enumerate(parts) if part.shape[1]}

    def stride_map(self, in_key: Any, stride_key: Any) -> tuple[Tensor, Tensor]:
        """The rows of a key, and the row of a coarser key that each lies in.

        Raises:
            InputError: some lie in none of the coarser voxels.
        """
        fine, coarse = self._key(in_key), self._key(stride_key)
        steps = each(coarse.stride, self.D)
        edges = torch.tensor([1, *steps], device=self.get_coordinates(fine).device)
        voxels = self.get_coordinates(fine).div(edges, rounding_mode="floor") * edges
        ones = torch.zeros(len(voxels), 1, device=voxels.device)
        merged = Sparse(ones, voxels.int(), coarse.stride, duplicates="first")
        keys = coarse.maps.keys(coarse.stride)
        places = torch.searchsorted(keys, merged.keys).clamp(max=max(len(keys) - 1, 0))
        if not torch.equal(keys[places], merged.keys):
            raise InputError(
                f"stride_map to other voxels at tensor stride {coarse.stride}: some of the first "
                "key lie in none of these; give the key that stride() returns"
            )
        rows = merged.maps.unsorted(coarse.stride, coarse.on_rows(places)[:, None])[:, 0]
        return torch.arange(len(voxels), device=voxels.device), rows[merged.inverse]

    def union_map(self, in_keys: Sequence[Any], out_key: Any) -> list[Tensor]:
        """Not here, since a key cannot be filled in later."""
        raise InputError("union_map is not here: add the tensors, or take MinkowskiUnion")

    def _key(self, key: Any) -> CoordinateMapKey:
        """A key from a key, or from a tensor stride of the manager's own maps."""
        return key if isinstance(key, CoordinateMapKey) else self._named(axes(key))

    def _named(self, stride: Axes) -> CoordinateMapKey:
        """The key at a tensor stride of the manager's own maps."""
        maps = self._held("a tensor stride in place of a key")
        maps.keys(stride)  # raises an error where there are no voxels
        return CoordinateMapKey(maps, stride)

    def _held(self, what: str) -> CoordinateMaps:
        """The maps, or InputError where the manager was not asked of a tensor."""
        if self._maps is None:
            raise InputError(f"{what}: ask the coordinate_manager of a tensor")
        return self._maps
