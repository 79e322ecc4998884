"""What a sparse tensor is combined with: tensors on the same voxels, plain tensors, and masks.

Each function checks that the two fit, so that a row meets the row of the same voxel.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsepipe.engine.axes import axes
from systems.schema import InputError

if TYPE_CHECKING:
    from sparsepipe.engine.coordinate_maps import CoordinateMaps
    from sparsepipe.engine.tensor import SparseTensor


def features_as_in(first: "SparseTensor", tensor: "SparseTensor") -> Tensor:
    """The features [N, C] of `tensor`, put into the order that the rows of `first` have. Both are
    on the same voxels."""
    if tensor.maps is first.maps:
        return tensor.features
    return first.maps.unsorted(first.tensor_stride, tensor.rows)


def rows_in(maps: "CoordinateMaps", tensor: "SparseTensor") -> Tensor:
    """The rows [M, C] of a tensor on the M voxels of maps that have all of its voxels, in the order
    of the keys; zeros where it has no voxel."""
    keys = maps.keys(tensor.tensor_stride)
    places = torch.searchsorted(keys, tensor.keys)
    return tensor.features.new_zeros(len(keys), tensor.channels).index_copy(0, places, tensor.rows)


def refuse_other_voxels(tensors: Sequence["SparseTensor"]) -> None:
    """Check that tensors are on one device and on the same voxels.

    Raises:
        InputError: one of them is not.
    """
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


def _on_same_voxels(one: "SparseTensor", other: "SparseTensor") -> bool:
    """Whether two tensors have the same tensor stride and the same keys."""
    if one.dimension != other.dimension or axes(one.tensor_stride) != axes(other.tensor_stride):
        return False
    return one.keys is other.keys or torch.equal(one.keys, other.keys)


def can_be_united(one: "SparseTensor", other: "SparseTensor") -> bool:
    """Whether two tensors are on different voxels, or of more and fewer samples, of one grid on one
    device."""
    alike = (
        one.device == other.device
        and one.dimension == other.dimension
        and axes(one.tensor_stride) == axes(other.tensor_stride)
    )
    same = one.batch_size == other.batch_size and _on_same_voxels(one, other)
    return alike and not same


def refuse_other_channels(features: Tensor, other: Tensor) -> None:
    """Check that features [N, C] and [N, C'] have as many channels.

    Raises:
        InputError: they have not.
    """
    if features.shape[1] != other.shape[1]:
        raise InputError(
            f"{features.shape[1]} and {other.shape[1]} channels cannot be added or multiplied: "
            "use cat"
        )


def check_broadcast(features: Tensor, other: Tensor) -> None:
    """Check that a plain tensor of real numbers broadcasts to features [N, C] without making them
    larger.

    Raises:
        InputError: it does not.
    """
    sizes = zip(reversed(other.shape), reversed(features.shape), strict=False)
    unlike = other.ndim > 2 or any(size not in (1, ours) for size, ours in sizes)
    if unlike or other.is_complex():
        raise InputError(
            f"a tensor of {other.dtype}, {list(other.shape)}, and features {list(features.shape)}: "
            "give a number, [C], or a row for each voxel"
        )


def check_mask(features: Tensor, mask: Tensor) -> None:
    """Check that a mask is bool [N], for features [N, C], on the same device.

    Raises:
        InputError: it is not.
    """
    if not isinstance(mask, Tensor):
        raise InputError(f"the mask is a {type(mask).__name__}: give a torch.Tensor")
    if mask.dtype != torch.bool or mask.shape != features.shape[:1]:
        raise InputError(
            f"the mask is {mask.dtype} {list(mask.shape)} for {len(features)} voxels: give "
            f"torch.bool [{len(features)}], true for voxels to keep"
        )
    if mask.device != features.device:
        raise InputError(f"features on {features.device}, mask on {mask.device}: move one")
