"""What stands in `MinkowskiEngine.utils`: batches of coordinates, and voxels of points."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsepipe.engine.arrays import as_tensor, int32_tensor
from sparsepipe.engine.quantize import sparse_quantize as quantized
from systems.schema import InputError

logger = logging.getLogger(__name__)


def batched_coordinates(
    coords: Sequence[Any], dtype: torch.dtype = torch.int32, device: Any = None
) -> Tensor:
    """Join the coordinates [N_b, D] of samples to [N, D + 1], with the number of the sample first.
    Floating-point ones are rounded down where `dtype` is int32."""
    if dtype not in (torch.int32, torch.float32):
        raise InputError(f"coordinates of {dtype}: give torch.int32 or torch.float32")
    parts = []
    for number, sample in enumerate(coords):
        values = torch.as_tensor(sample)
        if values.ndim != 2:
            raise InputError(f"sample {number}: coordinates {list(values.shape)}: give [N, D]")
        if dtype == torch.int32:
            values = int32_tensor(f"sample {number}: coordinates", values)
        parts.append(nn.functional.pad(values.to(dtype), (1, 0), value=number))
    if len({part.shape[1] for part in parts}) != 1:
        raise InputError("coordinates of no samples, or of unlike axes: give one or more, alike")
    return torch.cat(parts).to(device or parts[0].device)


def sparse_collate(
    coords: Sequence[Any],
    feats: Sequence[Any],
    labels: Sequence[Any] | None = None,
    dtype: torch.dtype = torch.int32,
    device: Any = None,
) -> Any:
    """Join samples: coordinates [N, D + 1], features [N, C] and, if there are labels, these, as one
    tensor where each sample has an array of them, and as the list that they are otherwise."""
    joined = batched_coordinates(coords, dtype, device)
    _check_lengths("features", feats, coords)
    features = torch.cat([torch.as_tensor(sample) for sample in feats])
    if labels is None:
        return joined, features
    of_samples = [torch.from_numpy(one) if isinstance(one, np.ndarray) else one for one in labels]
    if not isinstance(of_samples[0], Tensor):
        return joined, features, of_samples
    of_samples = [torch.atleast_1d(one) for one in of_samples]
    if sum(map(len, of_samples)) == len(joined):  # a label for each voxel
        _check_lengths("labels", of_samples, coords)
    return joined, features, torch.cat(of_samples)


def _check_lengths(name: str, parts: Sequence[Any], coords: Sequence[Any]) -> None:
    """Raise InputError if samples have more or fewer features or labels than voxels, which would
    meet those of another sample."""
    lengths, voxels = [len(part) for part in parts], [len(sample) for sample in coords]
    if lengths != voxels:
        raise InputError(f"{name} of {lengths} rows for samples of {voxels} voxels: give one each")


def batch_sparse_collate(
    data: Sequence[Any], dtype: torch.dtype = torch.int32, device: Any = None
) -> Any:
    """`sparse_collate` for a DataLoader: of tuples (coordinates, features, labels)."""
    coords, feats, *rest = zip(*data, strict=True)
    return sparse_collate(coords, feats, rest[0] if rest else None, dtype, device)


class SparseCollation:
    """A collate function for a DataLoader, which leaves out the last samples of a batch that has
    more than `limit_numpoints` points; 0 and below are no limit."""

    def __init__(
        self, limit_numpoints: int = -1, dtype: torch.dtype = torch.int32, device: Any = None
    ) -> None:
        self.limit_numpoints, self.dtype, self.device = limit_numpoints, dtype, device

    def __call__(self, list_data: Sequence[Any]) -> Any:
        """Join tuples (coordinates, features, labels)."""
        kept: list[Any] = []
        points = 0
        for sample in list_data:
            points += len(sample[0])
            if 0 < self.limit_numpoints < points:
                left = len(list_data) - len(kept)
                logger.warning(
                    "%d samples beyond %d points are left out", left, self.limit_numpoints
                )
                break
            kept.append(sample)
        if not kept:
            raise InputError(
                f"a batch whose first sample has more than {self.limit_numpoints} points: give a "
                "larger limit_numpoints"
            )
        return batch_sparse_collate(kept, self.dtype, self.device)


def sparse_quantize(
    coordinates: Any,
    features: Any = None,
    labels: Any = None,
    ignore_label: int = -100,
    return_index: bool = False,
    return_inverse: bool = False,
    return_maps_only: bool = False,
    quantization_size: Any = None,
    device: Any = "cpu",
) -> Any:
    """Cut points [N, D] into voxels of an edge `quantization_size`, 1 by default.

    Returns the voxels int32 [M, D]; then, where they were given, the features of the first point of
    each, and its label, which is `ignore_label` where its points have different ones (as the
    documentation says; MinkowskiEngine 0.5.4 takes the first), in int64 where the labels' own dtype
    does not hold it; then, where they are asked for, the
    number of that point, and the voxel of each point. One of these alone is no tuple. Voxels are
    sorted. Features and labels stay arrays of numpy or tensors, as they were.
    """
    size = 1.0 if quantization_size is None else quantization_size
    points = as_tensor("coordinates", coordinates).to(device)
    features, labels = (
        torch.as_tensor(given) if isinstance(given, list | tuple) else given
        for given in (features, labels)
    )
    if features is not None and len(features) != len(points):
        raise InputError(f"{len(points)} points, {len(features)} features: give one for each point")
    marks = None if labels is None else as_tensor("labels", labels).to(device)
    voxels = quantized(points, size, labels=marks, duplicates="first", ignore_label=ignore_label)
    index, inverse = voxels.index, voxels.inverse
    assert index is not None
    if return_maps_only:
        return (index, inverse) if return_inverse else index
    results: list[Any] = [voxels.coordinates]
    if features is not None:
        results.append(features[index.cpu().numpy() if isinstance(features, np.ndarray) else index])
    if labels is not None and voxels.labels is not None:
        results.append(_labels_like(labels, voxels.labels, ignore_label))
    results += [index] * return_index + [inverse] * return_inverse
    return results[0] if len(results) == 1 else tuple(results)


def _labels_like(labels: np.ndarray | Tensor, of_voxels: Tensor, ignore_label: int) -> Any:
    """The labels of voxels, int64, as an array of numpy or a tensor of the dtype that labels have,
    or in int64 where that does not hold `ignore_label`."""
    if isinstance(labels, np.ndarray):
        array = of_voxels.cpu().numpy()
        holds = np.array(ignore_label).astype(labels.dtype) == ignore_label
        return array.astype(labels.dtype) if holds else array
    holds = torch.tensor(ignore_label).to(labels.dtype).long() == ignore_label
    return of_voxels.to(labels.dtype) if holds else of_voxels


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: Any = "leaky_relu"
) -> Tensor:
    """Draw the weights [K, Cin, Cout] of a convolution as nn.init.kaiming_normal_ does those of
    nn.Conv3d; [Cin, Cout] counts as a linear layer's [Cout, Cin] there, as in MinkowskiEngine."""
    if tensor.ndim < 2 or mode not in ("fan_in", "fan_out"):
        raise InputError(
            f"weights {list(tensor.shape)}, mode {mode!r}: give [K, Cin, Cout], fan_in"
        )
    fans = (tensor.shape[1], tensor.shape[0]) if tensor.ndim == 2 else tensor.shape[1:3]
    receptive = 1 if tensor.ndim == 2 else tensor.shape[0]
    fan = fans[0 if mode == "fan_in" else 1] * receptive
    gain = nn.init.calculate_gain(nonlinearity, a)
    return nn.init.normal_(tensor, 0, gain / math.sqrt(fan))
