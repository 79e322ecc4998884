"""MinkowskiEngine's functions on tensors, and the modules that only call them."""

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from sparsepipe.engine import tensor as engine
from sparsepipe.minkowski.rows import Rows
from sparsepipe.minkowski.tensors import SparseTensor, TensorField
from systems.schema import InputError


def cat(*sparse_tensors: Any) -> Any:
    """Join the channels of tensors on the same voxels, given one by one or as a list."""
    return together(sparse_tensors, lambda features: torch.cat(features, 1))


def sum(*sparse_tensors: Any) -> Any:
    """Sum tensors on the same voxels."""
    return together(sparse_tensors, _total)


def mean(*sparse_tensors: Any) -> Any:
    """The mean of tensors on the same voxels."""
    return together(sparse_tensors, lambda features: _total(features) / len(features))


def var(*sparse_tensors: Any) -> Any:
    """The variance of tensors on the same voxels: the mean square of what they differ from their
    mean."""

    def variance(features: list[Tensor]) -> Tensor:
        middle = _total(features) / len(features)
        return _total([(value - middle) ** 2 for value in features]) / len(features)

    return together(sparse_tensors, variance)


def _total(features: list[Tensor]) -> Tensor:
    return reduce(add, features)


def _of_same_points(one: Any, other: Any) -> bool:
    """Whether both are fields at the same places."""
    if not (isinstance(one, TensorField) and isinstance(other, TensorField)):
        return False
    return one.places is other.places or torch.equal(one.places, other.places)


def together(tensors: Sequence[Any], operation: Any) -> Any:
    """A tensor or field of what `operation` makes of the features of several on the same voxels,
    given one by one or as a list."""
    given = tensors[0] if len(tensors) == 1 and not isinstance(tensors[0], Rows) else tensors
    several = list(given)
    if not several:
        raise InputError("none to combine: give tensors, or fields")
    first = several[0]
    if any(isinstance(one, TensorField) for one in several):
        if not all(_of_same_points(one, first) for one in several):
            raise InputError("fields of different points, or tensors among them: slice these first")
        return first.replace(operation([one.features for one in several]))
    joined = engine.cat(several)
    return first.replace(operation(list(joined.features.split([t.channels for t in several], 1))))


def dense_coordinates(shape: Any) -> Tensor:
    """The coordinates of all cells of a volume [B, C, X, Y, Z], int32 [cells, D + 1]."""
    ranges = [torch.arange(size) for size in (shape[0], *shape[2:])]
    return torch.cartesian_prod(*ranges).int()


def to_sparse_all(dense_tensor: Tensor, coordinates: Tensor | None = None) -> SparseTensor:
    """A tensor of all cells of a volume [B, C, X, Y, Z], differentiably."""
    if coordinates is None:
        coordinates = dense_coordinates(dense_tensor.shape).to(dense_tensor.device)
    rows = dense_tensor.movedim(1, -1).reshape(-1, dense_tensor.shape[1])
    return SparseTensor(rows, coordinates)


def to_sparse(
    x: Tensor, format: str | None = None, coordinates: Any = None, device: Any = None
) -> SparseTensor:
    """A tensor of those cells of a volume whose channels are not all 0, differentiably. `format`
    says where the channels are: "BCXXX", the default, or "BXXXC". It has all samples of the volume,
    those without such cells too."""
    if coordinates is not None:
        raise InputError("to_sparse finds the coordinates: leave them out, or take to_sparse_all")
    format = format or f"BC{'X' * (x.ndim - 2)}"
    if len(format) != x.ndim or format[0] != "B" or format.count("C") != 1:
        raise InputError(
            f"format {format!r} of a volume {list(x.shape)}: give a letter for each axis"
        )
    cells = x.movedim(format.index("C"), -1)
    places = (cells != 0).any(-1).nonzero()
    made = engine.SparseTensor(cells[tuple(places.unbind(1))], places, batch_size=len(x))
    made = made if device is None else made.to(device)
    return SparseTensor._made(made.features, made.tensor_stride, made.maps)


class MinkowskiToSparseTensor(nn.Module):
    """Volumes [B, C, X, Y, Z] or fields as sparse tensors."""

    def __init__(self, remove_zeros: bool = True, coordinates: Tensor | None = None) -> None:
        super().__init__()
        if remove_zeros and coordinates is not None:
            raise InputError(
                "coordinates with remove_zeros=True: give remove_zeros=False with them"
            )
        self.remove_zeros, self.coordinates = remove_zeros, coordinates

    def forward(self, input: Any) -> SparseTensor:
        """Convert one."""
        if isinstance(input, TensorField):
            return input.sparse()
        if self.remove_zeros:
            return to_sparse(input)
        return to_sparse_all(input, self.coordinates)


class MinkowskiToDenseTensor(nn.Module):
    """Sparse tensors as volumes [B, C, X, Y, Z] from the origin on."""

    def __init__(self, shape: Any = None) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, input: SparseTensor) -> Tensor:
        """Convert one."""
        return input.dense(shape=self.shape)[0]


class _Stack(nn.Sequential):
    """Modules that all take the input, and whose outputs are joined."""

    join = staticmethod(cat)

    def forward(self, x: Any) -> Any:
        """Join what the modules make of the input."""
        return self.join([module(x) for module in self])


class MinkowskiStackCat(_Stack):
    """Joins their channels."""


class MinkowskiStackSum(_Stack):
    """Sums them."""

    join = staticmethod(sum)


class MinkowskiStackMean(_Stack):
    """Takes their mean."""

    join = staticmethod(mean)


class MinkowskiStackVar(_Stack):
    """Takes their variance."""

    join = staticmethod(var)
