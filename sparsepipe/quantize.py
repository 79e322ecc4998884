"""From points to voxels, and from voxels of several clouds to a batch."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsepipe.coordinates import LIMIT, pack, unpack
from systems.schema import InputError


class Voxels(NamedTuple):
    """One cloud, its rows sorted by (x, y, z)."""

    coordinates: Tensor
    """int32 [M, 3], distinct."""
    features: Tensor
    """[M, C]."""
    labels: Tensor | None
    """int64 [M], one for each voxel; [] (no dimension), the cloud's; or None."""


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
    points: Tensor | np.ndarray,
    voxel_size: float,
    features: Tensor | np.ndarray | None = None,
    labels: Tensor | np.ndarray | None = None,
    duplicates: Literal["mean", "first"] = "mean",
) -> Voxels:
    """Voxels floor(point / voxel_size), sorted, each once; the same in every run on a CPU.

    Args:
        points: floating point [N, 3]; N may be 0. Arrays are taken as tensors.
        voxel_size: edge of a voxel, in the points' unit.
        features: [N, C]; by default a column of ones, for occupancy.
        labels: int64 [N]; a voxel gets its points' most frequent one, the smallest of several such.
        duplicates: what a voxel's features are: the mean of its points', or those of the first.

    Raises:
        InputError: points that are not finite or too far out, lengths that differ, a bad option.
    """
    points = torch.as_tensor(points)
    _check_points(points, voxel_size, duplicates)
    features = points.new_ones(len(points), 1) if features is None else torch.as_tensor(features)
    labels = None if labels is None else torch.as_tensor(labels)
    for name, values in (("features", features), ("labels", labels)):
        if values is not None and len(values) != len(points):
            raise InputError(f"{len(points)} points, {len(values)} {name}: give one for each point")
    cells = (points.double() / voxel_size).floor()
    outside = int((~((cells >= -LIMIT) & (cells < LIMIT)).all(1)).sum())
    if outside:
        raise InputError(
            f"{outside} of {len(points)} points are more than {LIMIT} voxels of {voxel_size} from "
            "the origin: centre the cloud or take larger voxels"
        )
    keys = pack(torch.nn.functional.pad(cells.long(), (1, 0)))
    keys, order = keys.sort(stable=True)
    keys, voxel, counts = keys.unique_consecutive(return_inverse=True, return_counts=True)
    features = features[order]
    if duplicates == "first":
        features = features[counts.cumsum(0) - counts]
    elif len(features):
        features = _means(features, voxel, counts)
    if labels is not None:
        labels = _majority(voxel, labels[order].long(), len(keys))
    return Voxels(unpack(keys)[:, 1:], features, labels)


def collate(samples: Sequence[tuple[Tensor, Tensor, Tensor | int | None]]) -> Batch:
    """A batch of clouds (coordinates int32 [N, 3], features [N, C], labels), in their order.

    Labels are one for each voxel, one for the cloud, or None, alike in all samples. Clouds may be
    empty. Rows stay in order, so that those of `sparse_quantize` fit the tensor's.

    Raises:
        InputError: no samples; lengths, channels, types or labels that differ, naming the sample.
    """
    if not samples:
        raise InputError("collate of no samples: give at least one cloud")
    clouds = [Voxels(c, f, _label(labels)) for c, f, labels in samples]
    for number, cloud in enumerate(clouds):
        _check_alike(number, cloud, clouds[0])
    coordinates = [
        torch.nn.functional.pad(cloud.coordinates.int(), (1, 0), value=number)
        for number, cloud in enumerate(clouds)
    ]
    labels = [cloud.labels for cloud in clouds if cloud.labels is not None]
    joined = torch.cat([values.reshape(-1) for values in labels]) if labels else None
    features = torch.cat([cloud.features for cloud in clouds])
    return Batch(torch.cat(coordinates), features, joined, len(clouds))


def _check_points(points: Tensor, voxel_size: float, duplicates: str) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or not points.is_floating_point():
        raise InputError(
            f"points are {points.dtype} {list(points.shape)}: give floating point [N, 3]"
        )
    if not 0 < voxel_size < float("inf"):
        raise InputError(f"voxel size {voxel_size}: give a length above 0")
    if duplicates not in ("mean", "first"):
        raise InputError(f"duplicates = {duplicates!r}: give 'mean' or 'first'")
    bad = int((~points.isfinite().all(1)).sum())
    if bad:
        raise InputError(f"{bad} of {len(points)} points are NaN or infinite: remove them")


def _means(features: Tensor, voxel: Tensor, counts: Tensor) -> Tensor:
    """Means [M, C] of the rows of each voxel, summed in float64."""
    total = features.new_zeros((len(counts), features.shape[1]), dtype=torch.float64)
    total.index_add_(0, voxel, features.double())
    kind = features.dtype if features.is_floating_point() else torch.float32
    return (total / counts[:, None]).to(kind)


def _majority(voxel: Tensor, labels: Tensor, voxels: int) -> Tensor:
    """The most frequent label of each voxel, int64 [voxels]; the smallest of several such."""
    names, label = labels.unique(return_inverse=True)
    pairs, counts = (voxel * len(names) + label).unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    owner = pairs[order] // max(len(names), 1)
    order = order[owner.argsort(stable=True)]  # by voxel, then count, then label
    sizes = torch.bincount(pairs // max(len(names), 1), minlength=voxels)
    return names[pairs[order[sizes.cumsum(0) - sizes]] % max(len(names), 1)]


def _label(labels: Tensor | int | None) -> Tensor | None:
    return None if labels is None else torch.as_tensor(labels)


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
    kinds = [None if c.labels is None else c.labels.ndim for c in (cloud, first)]
    if kinds[0] != kinds[1] or (kinds[0] == 1 and len(cloud.labels) != rows):  # type: ignore[arg-type]
        raise InputError(
            f"sample {number}: labels do not fit: give one for each voxel in all samples, one for "
            "the cloud in all, or none"
        )
