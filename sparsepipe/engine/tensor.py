"""Sparse tensors: the features of those voxels of a batch of grids that are occupied."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from sparsepipe.engine import operands
from sparsepipe.engine.axes import Axes, axes, each
from sparsepipe.engine.coordinate_maps import CoordinateMaps
from sparsepipe.engine.given import Duplicates, maps_of
from sparsepipe.engine.nested import register
from sparsepipe.engine.row_order import RowOrder
from sparsepipe.engine.traceable import traceable
from systems.schema import InputError


@dataclass(init=False, eq=False, repr=False)  # torch's DDP and FSDP find tensors in dataclasses
class SparseTensor:
    """Features, one row for each voxel, in the order in which they were given.

    So whatever lies beside the rows, such as labels, fits the features of every tensor that layers
    return on the same voxels. The voxels that a layer makes are sorted by (batch, x, y, z).
    """

    features: Tensor
    """Floating point [N, C]."""
    tensor_stride: Axes
    """The distance between neighbouring voxels, in voxels of the finest grid: one number, or one
    for each axis where they differ; 0 after global pooling."""
    maps: CoordinateMaps
    """The voxels at every stride. All tensors that layers make from this one share the object."""

    __array_ufunc__ = None  # numpy's numbers leave 2 * tensor to the tensor

    def __new__(cls, *args: Any, **kwargs: Any) -> "SparseTensor":
        """Let torch.fx record the construction as one call, as it does `traceable` functions."""
        values = (*args, *kwargs.values())
        if has_torch_function(values):
            traced: SparseTensor = handle_torch_function(cls, values, *args, **kwargs)
            return traced
        return super().__new__(cls)

    def __init__(
        self,
        features: Tensor,
        coordinates: Tensor | None = None,
        tensor_stride: Any = 1,
        *,
        batch_size: int | None = None,
        duplicates: Duplicates = "refuse",
        maps: CoordinateMaps | None = None,
    ) -> None:
        """Make a tensor of features and the coordinates of their voxels.

        Args:
            features: floating point [N, C]. They stay in their order. Layers are up to a fifth
                faster on sorted rows, such as those of `sparse_quantize` and `collate`.
            coordinates: integers [N, 4] = (batch, x, y, z), multiples of `tensor_stride`; or of 1,
                2 or 4 axes instead of three.
            tensor_stride: 1 for clouds. A tensor that comes from another process keeps its own.
                One number, or one for each axis.
            batch_size: the number of samples, by default the largest batch index + 1. Give it if
                the last samples are empty.
            duplicates: what happens to rows of equal coordinates: "refuse" raises an error, "mean",
                "first", "sum" and "max" keep one row in place of the first of them. See `order` and
                `inverse`.
            maps: the maps of a tensor on the same voxels, instead of coordinates and batch size.

        Raises:
            InputError: lengths, devices, shapes or dtypes do not fit, there are duplicates, or a
                coordinate is too large.
        """
        tensor_stride = axes(tensor_stride, "tensor stride")
        if maps is None:
            features, maps = maps_of(features, coordinates, tensor_stride, batch_size, duplicates)
        elif coordinates is not None or batch_size is not None:
            raise InputError(
                "maps contain the coordinates and the batch size: leave either these or maps out"
            )
        maps.check(tensor_stride, features)
        self.features, self.tensor_stride, self.maps = features, tensor_stride, maps

    @classmethod
    def on(cls, maps: CoordinateMaps, tensor_stride: Any, rows: Tensor) -> Self:
        """Make a tensor on voxels that exist in `maps`, from `rows` [N, C] in the order of the
        keys. Layers call it on their input, so that their output is of its class.

        Raises:
            InputError: there are more or fewer rows than voxels.
        """
        maps.check(tensor_stride, rows)
        return cls._made(maps.unsorted(tensor_stride, rows), tensor_stride, maps)

    @classmethod
    def _made(cls, features: Tensor, tensor_stride: Any, maps: CoordinateMaps) -> Self:
        """Make a tensor of its three parts, whatever a derived class is constructed of."""
        maps.check(tensor_stride, features)
        tensor: Self = object.__new__(cls)
        tensor.features, tensor.maps = features, maps
        tensor.tensor_stride = axes(tensor_stride, "tensor stride")
        return tensor

    def replace(self, features: Tensor) -> Self:
        """Make a tensor on the same voxels with other features [N, C'], in the same order."""
        return self._made(features, self.tensor_stride, self.maps)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the tensor to a device, convert it to a dtype, or both. The arguments are those of
        torch.Tensor.to.

        Raises:
            InputError: the dtype is not a floating point type.
        """
        features = self.features.to(*args, **kwargs)
        if not features.is_floating_point():
            raise InputError(f"features cannot become {features.dtype}: give a floating point type")
        if features.device == self.features.device:
            return self._made(features, self.tensor_stride, self.maps)
        non_blocking = bool(kwargs.get("non_blocking"))
        maps = self.maps.to(features.device, non_blocking=non_blocking)
        return self._made(features, self.tensor_stride, maps)

    def pin_memory(self) -> Self:
        """Copy the tensor to pinned memory of the host, from which a GPU copies by itself. torch's
        DataLoader calls it."""
        maps = self.maps.pin_memory()
        return self._made(self.features.pin_memory(), self.tensor_stride, maps)

    def keep(self, mask: Tensor) -> Self:
        """Keep the voxels for which `mask`, bool [N], is true, as
        `sparsepipe.engine.layers.Pruning` does.

        Raises:
            InputError: the mask has another shape, dtype or device.
        """
        operands.check_mask(self.features, mask)
        maps = self.maps.keep(self.tensor_stride, mask)
        return self._made(self.features[mask], self.tensor_stride, maps)

    @property
    def rows(self) -> Tensor:
        """The features [N, C] in the order of the keys, in which kernel maps number them. The rows
        of one sample follow each other. Features that are sorted are returned as they are."""
        return self.maps.sorted(self.tensor_stride, self.features)

    @property
    def coordinates(self) -> Tensor:
        """int32 [N, 4] = (batch, x, y, z): the voxel of each row of the features."""
        return self.maps.unsorted(self.tensor_stride, self.maps.coordinates(self.tensor_stride))

    @property
    def keys(self) -> Tensor:
        """int64 [N]: the packed coordinates, sorted; the voxel of each row of `rows`."""
        return self.maps.keys(self.tensor_stride)

    @property
    def order(self) -> Tensor:
        """int64 [N], ascending: which of the G given rows each row of the features is.

        So features == given[order], and labels[order] are the labels of the rows. It is 0, 1, ...,
        N - 1 unless duplicates were merged or rows were pruned. A row of merged duplicates has the
        number of the first of them (and its features may be their mean).

        Raises:
            InputError: nobody gave the rows, since a layer made these voxels.
        """
        return self._row_order.order

    @property
    def inverse(self) -> Tensor:
        """int64 [G]: the row of the features that each of the G given rows is, or was merged into.

        So features[inverse] has a row for each given row, such as a prediction for each label.

        Raises:
            InputError: nobody gave the rows, since a layer made these voxels; or some were pruned.
        """
        inverse = self._row_order.inverse
        if inverse is None:
            raise InputError(
                "rows were pruned: index with the mask, or take inverse of the tensor that went in"
            )
        return inverse

    @property
    def _row_order(self) -> RowOrder:
        """The order of the rows as they were given, or InputError where a layer made them."""
        order = self.maps.order(self.tensor_stride)
        if order is None:
            raise InputError(
                f"a layer made the voxels at tensor stride {self.tensor_stride}, so they have no "
                "given order: read coordinates, or take those of the tensor that went in"
            )
        return order

    @property
    def batch_size(self) -> int:
        """The number of samples, empty ones included."""
        return self.maps.batch_size

    @property
    def channels(self) -> int:
        """C, the number of features of each voxel."""
        return self.features.shape[1]

    @property
    def decomposed(self) -> tuple[Tensor, ...]:
        """The features of each sample, [N_b, C], in their order; [0, C] for an empty sample. They
        are views of `features` where these are sorted."""
        sizes, order = self.maps.sizes(self.tensor_stride), self.maps.order(self.tensor_stride)
        if order is None or order.sorting is None:
            return self.features.split(sizes)
        samples = order.sorting.split(sizes)
        return tuple(self.features.index_select(0, rows.sort().values) for rows in samples)

    @property
    def dimension(self) -> int:
        """The number of axes of the voxels' grid: 3 for (x, y, z)."""
        return self.maps.dimension

    @property
    def shape(self) -> torch.Size:
        """The shape of the features, [N, C]."""
        return self.features.shape

    @property
    def device(self) -> torch.device:
        """The device of the features and of the voxels."""
        return self.features.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the features."""
        return self.features.dtype

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return (
            f"SparseTensor({len(self)} voxels in {self.batch_size} samples, {self.channels} "
            f"channels, {self.features.dtype}, tensor stride {self.tensor_stride})"
        )

    def __add__(self, other: "Operand") -> Self:
        return self._with(other, operator.add, unites=True)

    def __sub__(self, other: "Operand") -> Self:
        return self._with(other, operator.sub, unites=True)

    def __mul__(self, other: "Operand") -> Self:
        return self._with(other, operator.mul)

    def __truediv__(self, other: "Operand") -> Self:
        return self._with(other, operator.truediv)

    def __rsub__(self, other: "Operand") -> Self:
        return self._with(other, lambda ours, theirs: theirs - ours)

    def __rtruediv__(self, other: "Operand") -> Self:
        return self._with(other, lambda ours, theirs: theirs / ours)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Self:
        return self.replace(-self.features)

    def _with(
        self, other: "Operand", operation: Callable[[Any, Any], Any], *, unites: bool = False
    ) -> Self:
        """Combine the features, row by row, with those of a tensor on the same voxels, or with a
        number or a plain tensor that broadcasts to [N, C]. Places without a voxel stay empty,
        whatever is added. An operation that `unites` takes a tensor on other voxels too: the result
        is on those of both, and where one has no voxel it counts as zeros."""
        if isinstance(other, SparseTensor):
            operands.refuse_other_channels(self.features, other.features)
            if unites and operands.can_be_united(self, other):
                maps = self.maps.unite(self.tensor_stride, other.maps)
                rows = operation(operands.rows_in(maps, self), operands.rows_in(maps, other))
                return self.on(maps, self.tensor_stride, rows)
            operands.refuse_other_voxels([self, other])
            return self.replace(operation(self.features, operands.features_as_in(self, other)))
        if isinstance(other, Tensor):
            operands.check_broadcast(self.features, other)
        elif not isinstance(other, Real):
            return NotImplemented
        return self.replace(operation(self.features, other))

    def dense(self) -> tuple[Tensor, Tensor]:
        """Write the features into the smallest grid that contains the voxels of all samples.

        Returns:
            The grid [B, C, X, Y, Z], differentiable, with zeros where there is no voxel; its cells
            are a tensor stride apart. And the coordinates of its first cell, int32 [3].

        Raises:
            InputError: there is no voxel at all.
        """
        if not len(self):
            raise InputError("a tensor without voxels has no grid: check len(tensor) first")
        coordinates = self.coordinates
        first = coordinates[:, 1:].amin(0)
        step = [max(s, 1) for s in each(axes(self.tensor_stride), self.dimension)]
        cells = (coordinates[:, 1:] - first) // torch.tensor(step, device=coordinates.device)
        shape = (self.batch_size, *(cells.amax(0) + 1).tolist(), self.channels)
        index = (coordinates[:, 0].long(), *cells.long().unbind(1))
        return self.features.new_zeros(shape).index_put(index, self.features).movedim(-1, 1), first


Operand = SparseTensor | float | Tensor
"""What a sparse tensor can be added to or multiplied with."""


@traceable
def cat(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """Join the channels of tensors on the same voxels: [N, C1], [N, C2], ... become [N, C1 + C2 +
    ...].

    Raises:
        InputError: there are no tensors, or they are on different voxels.
    """
    if not tensors:
        raise InputError("cat of no tensors: give at least one")
    operands.refuse_other_voxels(tensors)
    first = tensors[0]
    return first.replace(
        torch.cat([operands.features_as_in(first, tensor) for tensor in tensors], 1)
    )


@traceable
def union(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """Sum tensors of C channels on the voxels of all of them. Where one has no voxel it counts as
    zeros.

    Raises:
        InputError: there are no tensors, or they differ in stride, samples, device or channels.
    """
    if not tensors:
        raise InputError("union of no tensors: give at least one")
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


register(SparseTensor)
