"""What users give a sparse tensor: features and coordinates, checked, and duplicates merged."""

from typing import Literal, get_args

from torch import Tensor

from sparsepipe.engine.axes import Axes
from sparsepipe.engine.coordinate_maps import CoordinateMaps
from sparsepipe.engine.coordinates import check_stride, checked_batch_size, packed
from sparsepipe.engine.quantize import Merging, merged
from sparsepipe.engine.row_order import row_order
from systems.schema import InputError

Duplicates = Literal["refuse"] | Merging
"""What happens to rows of equal coordinates: an error, or one row in place of the first of them."""
_CHOICES = ("refuse", *get_args(Merging))


def maps_of(
    features: Tensor,
    coordinates: Tensor | None,
    stride: Axes,
    batch_size: int | None,
    duplicates: Duplicates,
) -> tuple[Tensor, CoordinateMaps]:
    """Check the arguments of `SparseTensor` and merge rows of equal coordinates.

    Returns:
        The features [N, C] and the maps of their voxels.

    Raises:
        InputError: as `SparseTensor` does.
    """
    if duplicates not in _CHOICES:
        raise InputError(f"duplicates = {duplicates!r}: give one of {', '.join(_CHOICES)}")
    coordinates = _checked(features, coordinates)
    given_keys, highest, rows = packed(coordinates)
    dimension = coordinates.shape[1] - 1
    keys, order = row_order(given_keys, rows)
    check_stride(coordinates, stride)
    batch_size = checked_batch_size(highest, batch_size, dimension)
    if len(keys) < len(features):
        if duplicates == "refuse":
            raise InputError(
                f"{len(features) - len(keys)} of {len(features)} coordinates are duplicates: merge "
                "them with sparsepipe.engine.quantize.sparse_quantize, or give "
                "duplicates='mean' or 'first'"
            )
        assert order.inverse is not None  # nothing was pruned
        features = merged(features, order.order, order.inverse, duplicates)
    return features, CoordinateMaps(keys, stride, batch_size, order, dimension=dimension)


def _checked(features: Tensor, coordinates: Tensor | None) -> Tensor:
    """The coordinates, or InputError if they or the features have a wrong type, shape or device."""
    for name, values in (("features", features), ("coordinates", coordinates)):
        if not isinstance(values, Tensor):
            raise InputError(f"{name} are a {type(values).__name__}: give a torch.Tensor")
    assert coordinates is not None
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
    return coordinates
