"""From points to voxels, and from voxels of several clouds to a batch."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsepipe.engine.coordinates import (
    LIMIT,
    distinct,
    pack,
    unpack,
)
from systems.schema import InputError

Numbers = Tensor | np.ndarray | Sequence[Any]
"""A tensor, or what numpy.asarray makes numbers of."""


_HARDLY_SUPPORTED = (torch.uint16, torch.uint32, torch.uint64)
"""Most of torch's functions refuse these types."""


class Voxels(NamedTuple):
    """One cloud, its rows sorted by (x, y, z)."""

    coordinates: Tensor
    """int32 [M, 3], distinct."""
    features: Tensor
    """[M, C]."""
    labels: Tensor | None
    """int64 [M], one for each voxel; [] (no dimension), the cloud's; or None."""
    index: Tensor | None = None  # type: ignore[assignment]  # a tuple's method
    """int64 [M]: the first point in each voxel."""
    inverse: Tensor | None = None
    """int64 [N]: the voxel of each point. predictions[inverse] are the points' predictions."""


class Batch(NamedTuple):
    """Several clouds; `SparseTensor(features, coordinates, batch_size=batch_size)` takes them."""

    coordinates: Tensor
    """int32 [N, 4] = (batch, x, y, z)."""
    features: Tensor
    """[N, C]."""
    labels: Tensor | None
    """int64 [N], or [batch size] where each cloud has one."""
    batch_size: int


def sparse_quantize(
    points: Numbers,
    voxel_size: float | Sequence[float],
    features: Numbers | None = None,
    labels: Numbers | None = None,
    duplicates: Literal["mean", "first"] = "mean",
    *,
    ignore_label: int | None = None,
    return_index: bool = True,
    return_inverse: bool = True,
) -> Voxels:
    """Voxels floor(point / voxel_size), sorted, each once; the same in every run on a CPU.

    Args:
        points: numbers [N, 3] of any real type; N may be 0.
        voxel_size: edge of a voxel, in the points' unit; or three, along x, y and z.
        features: [N, C]; by default a column of ones, for occupancy. Tensors of floating point keep
            their type. All others become torch.get_default_dtype(), float32, as networks want it:
            numpy makes float64 without being asked.
        labels: whole numbers [N]. A voxel gets its points' most frequent one, the smallest of
            several such.
        duplicates: what a voxel's features are: the mean of its points', or those of the first.
        ignore_label: the label of a voxel whose points have different labels, as in
            MinkowskiEngine; torch's cross_entropy leaves out -100, or what its ignore_index says.
        return_index, return_inverse: False leaves `index` or `inverse` out of the result.

    Raises:
        InputError: points that are not finite or too far out, complex numbers, labels that are not
            whole, lengths that differ, a bad option.
    """
    points = as_tensor("points", points)
    _check_points(points, duplicates)
    if features is None:
        features = torch.ones(len(points), 1, device=points.device)
    features = _features("features", features)
    if features.ndim != 2:
        raise InputError(f"features are {features.dtype} {list(features.shape)}: give [N, C]")
    labels = None if labels is None else _labels("labels", labels)
    if labels is not None and labels.ndim != 1:
        raise InputError(f"labels are {labels.dtype} {list(labels.shape)}: give whole numbers [N]")
    for name, values in (("features", features), ("labels", labels)):
        if values is not None and len(values) != len(points):
            raise InputError(f"{len(points)} points, {len(values)} {name}: give one for each point")
        if values is not None and values.device != points.device:
            raise InputError(f"points on {points.device}, {name} on {values.device}: move one")
    keys, index, inverse = distinct(_keys(points, voxel_size))
    return Voxels(
        unpack(keys)[:, 1:],
        merged(features, index, inverse, duplicates == "mean"),
        None if labels is None else _voxel_labels(labels, index, inverse, ignore_label),
        index if return_index else None,
        inverse if return_inverse else None,
    )


def collate(samples: Sequence[Sequence[Any]]) -> Batch:
    """A batch of clouds in their order: `Voxels`, or (coordinates, features, labels) of each; a
    pair has no labels.

    Coordinates are integers [N, 3] in any order, features [N, C] of one type, labels whole numbers,
    one for each voxel, one for the cloud, or None, alike in all samples. Clouds may be empty. No
    row is moved, here or by SparseTensor: labels fit the tensor's features, also where clouds were
    mirrored, turned or shuffled after they were quantized.

    Raises:
        InputError: no samples; lengths, channels, types or labels that differ, naming the sample.
    """
    if not samples:
        raise InputError("collate of no samples: give at least one cloud")
    clouds = [_cloud(number, *sample[:3]) for number, sample in enumerate(samples)]
    for number, cloud in enumerate(clouds):
        _check_alike(number, cloud, clouds[0])
    coordinates = [
        torch.nn.functional.pad(cloud.coordinates, (1, 0), value=number)
        for number, cloud in enumerate(clouds)
    ]
    labels = [cloud.labels for cloud in clouds if cloud.labels is not None]
    joined = torch.cat([values.reshape(-1) for values in labels]) if labels else None
    features = torch.cat([cloud.features for cloud in clouds])
    return Batch(torch.cat(coordinates), features, joined, len(clouds))


def merged(features: Tensor, index: Tensor, inverse: Tensor, mean: bool) -> Tensor:
    """Features [M, C] of [N, C]: of each voxel the mean of its rows, summed in float64, or the
    first one's. `index` int64 [M] and `inverse` int64 [N] are as in `Voxels`."""
    if not mean or len(index) == len(features):
        return features.index_select(0, index)
    total = features.new_zeros((len(index), features.shape[1]), dtype=torch.float64)
    total = total.index_add(0, inverse, features.double())
    counts = torch.bincount(inverse, minlength=len(index))
    return (total / counts[:, None]).to(features.dtype)


def as_tensor(name: str, values: Numbers) -> Tensor:
    """A tensor of numbers; arrays of any layout and byte order, and lists, are copied into one.

    Raises:
        InputError: they are no real numbers.
    """
    if not isinstance(values, Tensor):
        values = _copied(name, values)
    if values.is_complex():
        raise InputError(
            f"{name}: {values.dtype} is no type of real numbers: give a tensor or an array of them"
        )
    return values.long() if values.dtype in _HARDLY_SUPPORTED else values


def _copied(name: str, values: np.ndarray | Sequence[Any]) -> Tensor:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "buif":
            raise TypeError(f"{array.dtype} is no type of real numbers")
        kind = np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
        return torch.tensor(np.asarray(array, kind, order="C"))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}: give a tensor or an array of numbers") from None


def _check_points(points: Tensor, duplicates: str) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype == torch.bool:
        raise InputError(f"points are {points.dtype} {list(points.shape)}: give numbers [N, 3]")
    if duplicates not in ("mean", "first"):
        raise InputError(f"duplicates = {duplicates!r}: give 'mean' or 'first'")
    bad = int((~points.isfinite().all(1)).sum())
    if bad:
        raise InputError(f"{bad} of {len(points)} points are NaN or infinite: remove them")


def _keys(points: Tensor, voxel_size: float | Sequence[float]) -> Tensor:
    """The packed coordinates of the points' voxels, int64 [N]."""
    edges = torch.as_tensor(voxel_size, dtype=torch.float64, device=points.device)
    if edges.shape not in ((), (3,)) or not bool(((edges > 0) & edges.isfinite()).all()):
        raise InputError(f"voxel size {voxel_size}: give a length above 0, or three")
    cells = (points.double() / edges).floor()
    outside = int((~((cells >= -LIMIT) & (cells < LIMIT)).all(1)).sum())
    if outside:
        raise InputError(
            f"{outside} of {len(points)} points are more than {LIMIT} voxels of {voxel_size} from "
            "the origin: centre the cloud or take larger voxels"
        )
    return pack(torch.nn.functional.pad(cells.long(), (1, 0)))


def _features(name: str, features: Numbers) -> Tensor:
    """Tensors of floating point as they are, all others in torch's default type."""
    given = as_tensor(name, features)
    keeps = isinstance(features, Tensor) and given.is_floating_point()
    return given if keeps else given.to(torch.get_default_dtype())


def _labels(name: str, given: Numbers) -> Tensor:
    """Whole numbers of any type and shape, in int64."""
    labels = as_tensor(name, given)
    if labels.is_floating_point():
        whole = labels.isfinite() & (labels == labels.trunc())
        if not bool(whole.all()):
            raise InputError(
                f"{name} are {labels.dtype} {list(labels.shape)}, {int((~whole).sum())} of them "
                "not whole: give whole numbers"
            )
    return labels.long()


def _voxel_labels(
    labels: Tensor, index: Tensor, inverse: Tensor, ignore_label: int | None
) -> Tensor:
    """int64 [M] of the points' labels, int64 [N]."""
    if ignore_label is None:
        return _majority(inverse, labels, len(index))
    first = labels[index]
    differing = inverse[labels != first[inverse]]
    return first.index_fill(0, differing, ignore_label)


def _majority(voxel: Tensor, labels: Tensor, voxels: int) -> Tensor:
    """The most frequent label of each voxel, int64 [voxels]; the smallest of several such."""
    names, label = labels.unique(return_inverse=True)
    pairs, counts = (voxel * len(names) + label).unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    owner = pairs[order] // max(len(names), 1)
    order = order[owner.argsort(stable=True)]  # by voxel, then count, then label
    sizes = torch.bincount(pairs // max(len(names), 1), minlength=voxels)
    return names[pairs[order[sizes.cumsum(0) - sizes]] % max(len(names), 1)]


def _cloud(
    number: int, coordinates: Numbers, features: Numbers, labels: Numbers | None = None
) -> Voxels:
    """Sample `number`, with coordinates int32."""
    places = as_tensor(f"sample {number}: coordinates", coordinates)
    if places.is_floating_point() or places.dtype == torch.bool:
        raise InputError(
            f"sample {number}: coordinates are {places.dtype}: quantize them, give integers [N, 3]"
        )
    if places.dtype == torch.int64 and bool((places != places.int()).any()):
        raise InputError(f"sample {number}: coordinates that int32 cannot hold: centre the cloud")
    named = None if labels is None else _labels(f"sample {number}: labels", labels)
    return Voxels(places.int(), _features(f"sample {number}: features", features), named)


def _check_alike(number: int, cloud: Voxels, first: Voxels) -> None:
    rows = len(cloud.coordinates)
    if cloud.coordinates.ndim != 2 or cloud.coordinates.shape[1] != 3:
        raise InputError(
            f"sample {number}: coordinates have shape {list(cloud.coordinates.shape)}: give [N, 3]"
        )
    if cloud.features.ndim != 2 or len(cloud.features) != rows:
        raise InputError(
            f"sample {number}: features {list(cloud.features.shape)} for {rows} voxels: "
            f"give [{rows}, C]"
        )
    if cloud.features.shape[1] != first.features.shape[1]:
        raise InputError(
            f"sample {number} has {cloud.features.shape[1]} channels, sample 0 has "
            f"{first.features.shape[1]}: give the same"
        )
    if cloud.features.dtype != first.features.dtype:
        raise InputError(
            f"sample {number} has features of {cloud.features.dtype}, sample 0 of "
            f"{first.features.dtype}: give the same"
        )
    dimensions = [None if c.labels is None else c.labels.ndim for c in (cloud, first)]
    fit = dimensions[0] == dimensions[1]
    if cloud.labels is not None and cloud.labels.ndim:
        fit &= cloud.labels.shape == (rows,)
    if not fit:
        raise InputError(
            f"sample {number}: labels do not fit: give one for each voxel in all samples, one for "
            "the cloud in all, or none"
        )
