"""Sparse tensors inside the nested structures of torch: DDP, FSDP and torch.func find the features
in what a network returns."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from sparsepipe.engine.coordinate_maps import CoordinateMaps
    from sparsepipe.engine.tensor import SparseTensor

Voxels = tuple[type["SparseTensor"], "CoordinateMaps", Any]
"""What torch's functions on nested structures do not touch of a sparse tensor."""


def register(kind: type["SparseTensor"]) -> None:
    """Let torch's functions on nested structures see the features in tensors of a class."""
    pytree.register_pytree_node(kind, _parts, _of_parts)


def _parts(tensor: "SparseTensor") -> tuple[list[Tensor], Voxels]:
    """The features, and beside them what torch does not touch."""
    return [tensor.features], (type(tensor), tensor.maps, tensor.tensor_stride)


def _of_parts(parts: Iterable[Any], voxels: Voxels) -> "SparseTensor":
    """Put a sparse tensor together from its `_parts`. Nothing is checked, since torch may put
    anything in the place of the features."""
    kind, maps, tensor_stride = voxels
    tensor = object.__new__(kind)
    (tensor.features,), tensor.maps, tensor.tensor_stride = parts, maps, tensor_stride
    return tensor
