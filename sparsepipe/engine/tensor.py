"""Sparse tensors: features of the occupied voxels of a batch of grids."""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils import _pytree as pytree

from sparsepipe.engine.coordinate_maps import CoordinateMaps, Duplicates, maps_of
from sparsepipe.engine.row_order import RowOrder
from sparsepipe.engine.traceable import traceable
from systems.schema import InputError


@dataclass(init=False, eq=False, repr=False)  # torch's DDP and FSDP find tensors in dataclasses
class SparseTensor:
    """Features [N, C], one row for each voxel, in the order in which they were given.

    Whatever lies beside the rows, such as a label for each voxel, therefore fits the features, and
    the features of every tensor that layers return on the same voxels. The voxels that a layer
    makes, at larger tensor strides, are sorted by (batch, x, y, z).

    `tensor_stride` is the distance of neighbouring voxels on the finest grid; 0 after global
    pooling. `maps` is shared by all tensors made from this one.
    """

    features: Tensor
    tensor_stride: int
    maps: CoordinateMaps

    __array_ufunc__ = None  # numpy's numbers leave 2 * tensor to the tensor

    def __new__(cls, *given: Any, **named: Any) -> "SparseTensor":
        """torch.fx records it as one call, as it does the functions that are `traceable`."""
        values = (*given, *named.values())
        if has_torch_function(values):
            traced: SparseTensor = handle_torch_function(cls, values, *given, **named)
            return traced
        return super().__new__(cls)

    def __init__(
        self,
        features: Tensor,
        coordinates: Tensor | None = None,
        tensor_stride: int = 1,
        *,
        batch_size: int | None = None,
        duplicates: Duplicates = "refuse",
        maps: CoordinateMaps | None = None,
    ) -> None:
        """Check.

        Args:
            features: floating point [N, C]; they stay in their order. Layers are up to a fifth
                faster on sorted rows, as those of `sparse_quantize` and `collate` are.
            coordinates: integers [N, 4] = (batch, x, y, z), multiples of `tensor_stride`.
            tensor_stride: 1 for clouds; else what a tensor that is sent on had.
            batch_size: by default the largest batch index + 1; more if the last samples are empty.
            duplicates: what happens to rows of equal coordinates. They are refused, or their mean
                or the first of them stays, in the place of the first: see `order` and `inverse`.
            maps: in place of coordinates and batch size, those of a tensor on the same voxels.

        Raises:
            InputError: lengths, devices, shapes or types that do not fit, duplicates, overflow.
        """
        if maps is None:
            features, maps = maps_of(features, coordinates, tensor_stride, batch_size, duplicates)
        elif coordinates is not None or batch_size is not None:
            raise InputError(
                "coordinates or batch_size beside maps, which have them: leave one out"
            )
        maps.check(tensor_stride, features)
        self.features, self.tensor_stride, self.maps = features, tensor_stride, maps

    @classmethod
    def on(cls, maps: CoordinateMaps, tensor_stride: int, rows: Tensor) -> "SparseTensor":
        """A tensor on voxels that exist in `maps`, of rows [N, C] in the order of their keys.

        Raises:
            InputError: the number of rows is not that of the voxels.
        """
        maps.check(tensor_stride, rows)
        return cls(maps.unsorted(tensor_stride, rows), None, tensor_stride, maps=maps)

    def replace(self, features: Tensor) -> "SparseTensor":
        """The same voxels with other features [N, C'], in the order of these."""
        return SparseTensor(features, None, self.tensor_stride, maps=self.maps)

    def to(self, *args: Any, **kwargs: Any) -> "SparseTensor":
        """This tensor on a device, in a dtype, or both, given as to torch.Tensor.to.

        Raises:
            InputError: the dtype is no floating point.
        """
        features = self.features.to(*args, **kwargs)
        if not features.is_floating_point():
            raise InputError(f"features cannot become {features.dtype}: give a floating point type")
        here = features.device == self.features.device
        maps = self.maps if here else self.maps.to(features.device)
        return SparseTensor(features, None, self.tensor_stride, maps=maps)

    def keep(self, mask: Tensor) -> "SparseTensor":
        """The voxels for which `mask`, bool [N], is true: see `sparsepipe.engine.layers.Pruning`.

        Raises:
            InputError: a mask of another shape, type or device.
        """
        if not isinstance(mask, Tensor):
            raise InputError(f"the mask is a {type(mask).__name__}: give a torch.Tensor")
        if mask.dtype != torch.bool or mask.shape != (len(self),):
            raise InputError(
                f"a mask {mask.dtype} {list(mask.shape)} for {len(self)} voxels: give "
                f"torch.bool [{len(self)}], true for voxels to keep"
            )
        if mask.device != self.features.device:
            raise InputError(f"features on {self.features.device}, mask on {mask.device}: move one")
        maps = self.maps.keep(self.tensor_stride, mask)
        return SparseTensor(self.features[mask], None, self.tensor_stride, maps=maps)

    @property
    def rows(self) -> Tensor:
        """The features [N, C] in the order of the voxels' keys: batch first, a sample's rows are a
        slice. Kernel maps number rows so. The features themselves where they are sorted."""
        return self.maps.sorted(self.tensor_stride, self.features)

    @property
    def coordinates(self) -> Tensor:
        """int32 [N, 4] = (batch, x, y, z), a row for each row of the features."""
        return self.maps.unsorted(self.tensor_stride, self.maps.coordinates(self.tensor_stride))

    @property
    def keys(self) -> Tensor:
        """The packed coordinates, int64 [N], sorted, as `rows` are."""
        return self.maps.keys(self.tensor_stride)

    @property
    def order(self) -> Tensor:
        """int64 [N], ascending: of the G rows that were given, the one that each row is.

        features == given[order], and labels[order] are the labels of the rows. 0, 1, ..., N - 1
        unless duplicates were merged or rows were pruned. Of merged duplicates it is the first
        (and with their mean, coordinates == given[order] alone).

        Raises:
            InputError: nobody gave the rows: a layer made these voxels.
        """
        return self._given.order

    @property
    def inverse(self) -> Tensor:
        """int64 [G]: of each row that was given, the row that it is or went into.

        features[inverse] has a row for each given one, such as a prediction for each label.

        Raises:
            InputError: nobody gave the rows: a layer made these voxels; or some were pruned.
        """
        inverse = self._given.inverse
        if inverse is None:
            raise InputError(
                "rows were pruned: index with the mask, or take inverse of the tensor that went in"
            )
        return inverse

    @property
    def _given(self) -> RowOrder:
        order = self.maps.order(self.tensor_stride)
        if order is None:
            raise InputError(
                f"a layer made the voxels at tensor stride {self.tensor_stride}, so they have no "
                "given order: read coordinates, or take those of the tensor that went in"
            )
        return order

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
        """Each sample's features [N_b, C], in the order of the features; [0, C] for an empty one.

        They are views where the features are sorted.
        """
        sizes, order = self.maps.sizes(self.tensor_stride), self.maps.order(self.tensor_stride)
        if order is None or order.sorting is None:
            return self.features.split(sizes)
        samples = order.sorting.split(sizes)
        return tuple(self.features.index_select(0, rows.sort().values) for rows in samples)

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return (
            f"SparseTensor({len(self)} voxels in {self.batch_size} samples, {self.channels} "
            f"channels, {self.features.dtype}, tensor stride {self.tensor_stride})"
        )

    def __add__(self, other: "Operand") -> "SparseTensor":
        return self._with(other, operator.add)

    def __sub__(self, other: "Operand") -> "SparseTensor":
        return self._with(other, operator.sub)

    def __mul__(self, other: "Operand") -> "SparseTensor":
        return self._with(other, operator.mul)

    def __truediv__(self, other: "Operand") -> "SparseTensor":
        return self._with(other, operator.truediv)

    def __rsub__(self, other: "Operand") -> "SparseTensor":
        return self._with(other, lambda ours, theirs: theirs - ours)

    def __rtruediv__(self, other: "Operand") -> "SparseTensor":
        return self._with(other, lambda ours, theirs: theirs / ours)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "SparseTensor":
        return self.replace(-self.features)

    def _with(self, other: "Operand", operation: Callable[[Tensor, Any], Tensor]) -> "SparseTensor":
        """Row by row with a tensor on the same voxels; or with a number, or a plain tensor that
        broadcasts to the features. Voxels that do not exist stay so, whatever is added to them."""
        if isinstance(other, SparseTensor):
            _refuse_other_voxels([self, other])
            if self.channels != other.channels:
                raise InputError(
                    f"{self.channels} and {other.channels} channels cannot be added or multiplied: "
                    "use cat"
                )
            return self.replace(operation(self.features, _features_as_in(self, other)))
        if not isinstance(other, (Real, Tensor)):
            return NotImplemented
        shape = other.shape if isinstance(other, Tensor) else ()
        sizes = zip(reversed(shape), reversed(self.features.shape), strict=False)
        if len(shape) > 2 or any(size not in (1, ours) for size, ours in sizes):
            raise InputError(
                f"a tensor of shape {list(shape)} and features {list(self.features.shape)}: give a "
                "number, [C], or a row for each voxel"
            )
        return self.replace(operation(self.features, other))

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


Operand = SparseTensor | float | Tensor


@traceable
def cat(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """The channels of tensors on the same voxels, one after the other.

    Raises:
        InputError: no tensors, or they are on different voxels.
    """
    if not tensors:
        raise InputError("cat of no tensors: give at least one")
    _refuse_other_voxels(tensors)
    first = tensors[0]
    return first.replace(torch.cat([_features_as_in(first, tensor) for tensor in tensors], 1))


def _parts(tensor: SparseTensor) -> tuple[list[Tensor], tuple[CoordinateMaps, int]]:
    """What torch's functions on nested structures see: the features alone."""
    return [tensor.features], (tensor.maps, tensor.tensor_stride)


def _of_parts(parts: Iterable[Any], voxels: tuple[CoordinateMaps, int]) -> SparseTensor:
    tensor = SparseTensor.__new__(SparseTensor)  # torch may put anything in the features' place
    (tensor.features,), (tensor.maps, tensor.tensor_stride) = parts, voxels
    return tensor


pytree.register_pytree_node(SparseTensor, _parts, _of_parts)


def _features_as_in(first: SparseTensor, tensor: SparseTensor) -> Tensor:
    """The features in the order of those of `first`, which is on the same voxels."""
    if tensor.maps is first.maps:
        return tensor.features
    return first.maps.unsorted(first.tensor_stride, tensor.rows)


def _refuse_other_voxels(tensors: Sequence[SparseTensor]) -> None:
    first = tensors[0]
    for tensor in tensors[1:]:
        if tensor.features.device != first.features.device:
            raise InputError(
                f"tensors on {first.features.device} and {tensor.features.device}: move one"
            )
        if not _on_same_voxels(tensor, first) or tensor.batch_size != first.batch_size:
            raise InputError(
                f"{first} and {tensor} are on different voxels: bring them to the same stride of "
                "the same clouds first"
            )


def _on_same_voxels(one: SparseTensor, other: SparseTensor) -> bool:
    if one.tensor_stride != other.tensor_stride:
        return False
    return one.keys is other.keys or torch.equal(one.keys, other.keys)
