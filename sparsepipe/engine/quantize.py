"""Cutting points into voxels, and joining the voxels of several clouds into a batch."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from sparsepipe.engine.arrays import (
    Numbers,
    as_tensor,
    features_tensor,
    int32_tensor,
    labels_tensor,
)
from sparsepipe.engine.coordinates import PACKINGS, distinct, pack, packing, unpack
from systems.schema import InputError

Merging = Literal["mean", "first", "sum", "max"]
"""How the rows of one voxel become one: their mean, the first of them, their sum, or the largest
value of each channel."""


class Voxels(NamedTuple):
    """The voxels of one cloud, sorted by (x, y, z)."""

    coordinates: Tensor
    """int32 [M, 3], distinct; other numbers of axes than three as the points have them."""
    features: Tensor
    """Floating point [M, C]."""
    labels: Tensor | None
    """int64: [M], a label for each voxel, or [] (no dimension), the label of the cloud. None: no
    labels."""
    index: Tensor | None = None  # type: ignore[assignment]  # a tuple's method
    """int64 [M]: the number of the first point in each voxel."""
    inverse: Tensor | None = None
    """int64 [N]: the voxel of each point. So predictions[inverse] are the predictions for the
    points."""


class Batch(NamedTuple):
    """The voxels of several clouds, as `SparseTensor(features, coordinates, batch_size=batch_size)`
    takes them."""

    coordinates: Tensor
    """int32 [N, 4] = (batch, x, y, z)."""
    features: Tensor
    """Floating point [N, C]."""
    labels: Tensor | None
    """int64 [N], or [batch size] where each cloud has one label. None: no labels."""
    batch_size: int
    """The number of clouds, empty ones included."""


def sparse_quantize(
    points: Numbers,
    voxel_size: float | Sequence[float],
    features: Numbers | None = None,
    labels: Numbers | None = None,
    duplicates: Merging = "mean",
    *,
    ignore_label: int | None = None,
    return_index: bool = True,
    return_inverse: bool = True,
) -> Voxels:
    """Cut points into voxels: the point p lies in the voxel floor(p / voxel_size).

    The result has each voxel once, sorted. On a CPU it is the same in every run.

    Args:
        points: numbers [N, 3] of any real dtype, or of 1, 2 or 4 axes; N may be 0.
        voxel_size: the edge of a voxel in the unit of the points, or an edge along each axis.
        features: [N, C]; by default ones [N, 1], which say that a voxel is occupied. Tensors of
            floating point keep their dtype. All others become torch.get_default_dtype(), since
            networks want float32 and numpy makes float64 without being asked.
        labels: whole numbers [N]. A voxel gets the most frequent label of its points, the smallest
            of several such.
        duplicates: the features of a voxel with several points: their "mean", those of the
            "first", their "sum", or the largest of each channel, "max".
        ignore_label: the label of a voxel whose points have different labels, as in
            MinkowskiEngine. torch's cross_entropy leaves out -100, or what its ignore_index says.
        return_index, return_inverse: whether the result has `index` and `inverse`.

    Raises:
        InputError: points are not finite or too far out, numbers are complex, labels are not whole,
            lengths differ, or an option is wrong.
    """
    points = as_tensor("points", points)
    _check_points(points, duplicates)
    if features is None:
        features = torch.ones(len(points), 1, device=points.device)
    features = features_tensor("features", features)
    if features.ndim != 2:
        raise InputError(f"features are {features.dtype} {list(features.shape)}: give [N, C]")
    labels = None if labels is None else labels_tensor("labels", labels)
    if labels is not None and labels.ndim != 1:
        raise InputError(f"labels are {labels.dtype} {list(labels.shape)}: give whole numbers [N]")
    for name, values in (("features", features), ("labels", labels)):
        if values is not None and len(values) != len(points):
            raise InputError(f"{len(points)} points, {len(values)} {name}: give one for each point")
        if values is not None and values.device != points.device:
            raise InputError(f"points on {points.device}, {name} on {values.device}: move one")
    keys, index, inverse = distinct(_keys(points, voxel_size))  # rows with one key share a voxel
    return Voxels(
        unpack(keys, points.shape[1])[:, 1:],
        merged(features, index, inverse, duplicates),
        None if labels is None else _voxel_labels(labels, index, inverse, ignore_label),
        index if return_index else None,
        inverse if return_inverse else None,
    )


def collate(samples: Sequence[Sequence[Any]]) -> Batch:
    """Join clouds into a batch, in their order.

    No row is moved, here or by SparseTensor. So labels fit the tensor's features, even if clouds
    were mirrored, turned or shuffled after they were quantized.

    Args:
        samples: each is a `Voxels`, or a tuple (coordinates, features, labels), or a pair without
            labels. Coordinates are integers [N, 3] in any order, or of as many axes as in all
            other samples; N may be 0. Features are [N, C]
            of one dtype. Labels are whole numbers, one for each voxel or one for the cloud, or
            None, in the same way in all samples.

    Raises:
        InputError: there are no samples, or their lengths, channels, dtypes or labels differ. The
            message names the sample.
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


def merged(features: Tensor, index: Tensor, inverse: Tensor, how: Merging) -> Tensor:
    """Merge features [N, C] of points to those of voxels, [M, C], differentiably. Sums are taken in
    float64. `index` int64 [M] and `inverse` int64 [N] are those of `Voxels`."""
    if how == "first" or len(index) == len(features):
        return features.index_select(0, index)
    if how == "max":
        places = inverse[:, None].expand_as(features)
        largest = features.new_zeros(len(index), features.shape[1])
        return largest.scatter_reduce(0, places, features, "amax", include_self=False)
    total = features.new_zeros((len(index), features.shape[1]), dtype=torch.float64)
    total = total.index_add(0, inverse, features.double())
    if how == "mean":
        total = total / torch.bincount(inverse, minlength=len(index))[:, None]
    return total.to(features.dtype)


def _check_points(points: Tensor, duplicates: str) -> None:
    """Raise InputError if points are not finite numbers [N, 3], or `duplicates` is unknown."""
    if points.ndim != 2 or points.shape[1] not in PACKINGS or points.dtype == torch.bool:
        raise InputError(f"points are {points.dtype} {list(points.shape)}: give numbers [N, 3]")
    if duplicates not in get_args(Merging):
        raise InputError(f"duplicates = {duplicates!r}: give 'mean', 'first', 'sum' or 'max'")
    bad = int((~points.isfinite().all(1)).sum())
    if bad:
        raise InputError(f"{bad} of {len(points)} points are NaN or infinite: remove them")


def _keys(points: Tensor, voxel_size: float | Sequence[float]) -> Tensor:
    """The keys of the voxels in which points [N, 3] lie, int64 [N]."""
    edges = torch.as_tensor(voxel_size, dtype=torch.float64, device=points.device)
    dimension = points.shape[1]
    limit = packing(dimension).limit
    if edges.shape not in ((), (dimension,)) or not bool(((edges > 0) & edges.isfinite()).all()):
        raise InputError(f"voxel size {voxel_size}: give a length above 0, or one for each axis")
    cells = (points.double() / edges).floor()
    outside = int((~((cells >= -limit) & (cells < limit)).all(1)).sum())
    if outside:
        raise InputError(
            f"{outside} of {len(points)} points are more than {limit} voxels of {voxel_size} from "
            "the origin: centre the cloud or take larger voxels"
        )
    return pack(torch.nn.functional.pad(cells.long(), (1, 0)))


def _voxel_labels(
    labels: Tensor, index: Tensor, inverse: Tensor, ignore_label: int | None
) -> Tensor:
    """The label of each voxel, int64 [M], from the labels of its points, int64 [N]."""
    if ignore_label is None:
        return _majority(inverse, labels, len(index))
    first = labels[index]  # the label of the first point in each voxel
    mixed_voxels = inverse[labels != first[inverse]]
    return first.index_fill(0, mixed_voxels, ignore_label)


def _majority(voxel: Tensor, labels: Tensor, voxels: int) -> Tensor:
    """The most frequent label of each voxel, int64 [voxels]; the smallest of several such.

    `voxel` is the voxel of each point, int64 [N], and `labels` its label, int64 [N].
    """
    names, label = labels.unique(return_inverse=True)
    kinds = max(len(names), 1)
    # 1. Count how often each pair (voxel, label) occurs. A pair is one number, voxel * kinds +
    # label.
    pairs, counts = (voxel * kinds + label).unique(return_counts=True)
    # 2. Sort the pairs by voxel, then by falling count, then by label.
    order = counts.argsort(descending=True, stable=True)
    order = order[(pairs[order] // kinds).argsort(stable=True)]
    # 3. Take the first pair of each voxel.
    sizes = torch.bincount(pairs // kinds, minlength=voxels)
    return names[pairs[order[sizes.cumsum(0) - sizes]] % kinds]


def _cloud(
    number: int, coordinates: Numbers, features: Numbers, labels: Numbers | None = None
) -> Voxels:
    """Sample `number` of `collate` with coordinates int32 and labels int64, or InputError if they
    cannot be that."""
    voxels = as_tensor(f"sample {number}: coordinates", coordinates)
    if voxels.is_floating_point() or voxels.dtype == torch.bool:
        raise InputError(
            f"sample {number}: coordinates are {voxels.dtype}: quantize them, give integers [N, 3]"
        )
    whole = None if labels is None else labels_tensor(f"sample {number}: labels", labels)
    cells = int32_tensor(f"sample {number}: coordinates", voxels)
    return Voxels(cells, features_tensor(f"sample {number}: features", features), whole)


def _check_alike(number: int, cloud: Voxels, first: Voxels) -> None:
    """Raise InputError if sample `number` has wrong shapes, or differs from sample 0 in its
    channels, dtype or kind of labels."""
    rows = len(cloud.coordinates)
    shape = list(cloud.coordinates.shape)
    if len(shape) != 2 or shape[1] not in PACKINGS:
        raise InputError(f"sample {number}: coordinates have shape {shape}: give [N, 3]")
    if shape[1] != first.coordinates.shape[1]:
        raise InputError(
            f"sample {number}: coordinates of {shape[1]} axes, sample 0 has "
            f"{first.coordinates.shape[1]}: give the same"
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
