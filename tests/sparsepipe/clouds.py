"""Clouds for the tests, and dense layers at their voxels."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sparsepipe.quantize import collate, sparse_quantize
from sparsepipe.tensor import SparseTensor

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Largest error, relative to the largest value, that sums in another order may make."""


def random_tensor(
    channels: int = 3, dtype: torch.dtype = torch.float64, voxels: int = 120, seed: int = 0
) -> SparseTensor:
    """Four samples in [-5, 5)^3, of which the second and the last one are empty."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(2 * 10**3, generator=generator)[:voxels]
    fields = [cells // 1000 * 2, *(cells // 10**place % 10 - 5 for place in (2, 1, 0))]
    features = torch.randn(voxels, channels, generator=generator, dtype=dtype)
    return SparseTensor(features, torch.stack(fields, 1).int(), batch_size=4)


def real_tensor(channels: int, dtype: torch.dtype) -> SparseTensor:
    """A LiDAR frame and meshes' vertices, in one batch, with random features."""
    folder = os.environ.get("TESTBED_DATA")
    if not folder:
        pytest.skip("TESTBED_DATA is not set")
    frame = np.fromfile(Path(folder, "lidar/kitti_000008.bin"), np.float32).reshape(-1, 4)
    voxels = [sparse_quantize(torch.from_numpy(frame[:, :3]), 2.5)]
    for path in sorted(Path(folder, "meshes").glob("*.obj"))[:2]:
        lines = [line.split()[1:4] for line in path.read_text().splitlines() if line[:2] == "v "]
        points = torch.tensor([[float(value) for value in line] for line in lines])
        voxels.append(sparse_quantize(points, float(points.amax() - points.amin()) / 16))
    batch = collate([(v.coordinates, v.features, None) for v in voxels])
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(batch.coordinates), channels, generator=generator, dtype=dtype)
    return SparseTensor(features, batch.coordinates, batch_size=batch.batch_size)


def dense_convolution(
    tensor: SparseTensor, kernel: Tensor, size: int, stride: int, dilation: int, sites: Tensor
) -> Tensor:
    """nn.Conv3d's rows at the voxels `sites`, for a tensor at stride 1."""
    lead = size // 2 * dilation if size % 2 else 0
    cells, origin = _grid(tensor, 1, stride, size * dilation, lead)
    output = F.conv3d(
        cells, _weight(kernel, size).transpose(0, 1), stride=stride, dilation=dilation
    )
    return _rows(output, sites, origin + lead, stride)


def dense_transposed(
    tensor: SparseTensor, kernel: Tensor, size: int, dilation: int, sites: Tensor
) -> Tensor:
    """nn.ConvTranspose3d's rows at the voxels `sites` of stride 1."""
    stride = tensor.tensor_stride
    lead = size // 2 * dilation if size % 2 else 0
    cells, origin = _grid(tensor, stride, stride, size * dilation, 0)
    output = F.conv_transpose3d(cells, _weight(kernel, size), stride=stride, dilation=dilation)
    return _rows(output, sites, origin - lead, 1)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Equal to the dtype's tolerance."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    error = float((actual - expected).detach().abs().max())
    assert error <= TOLERANCE[actual.dtype] * max(float(expected.detach().abs().max()), 1e-30)


def _grid(
    tensor: SparseTensor, step: int, align: int, margin: int, lead: int
) -> tuple[Tensor, Tensor]:
    """The tensor as [B, C, X, Y, Z] with a margin, and its first corner, int32 [3] = a multiple of
    `align`, less `lead`."""
    coordinates = tensor.coordinates
    low = coordinates[:, 1:].amin(0) - margin
    low = low - low.remainder(align) - lead
    index = (coordinates[:, 1:] - low).div(step, rounding_mode="floor")
    shape = (index.amax(0) + 2 * margin + align + 2).tolist()
    cells = tensor.features.new_zeros(tensor.batch_size, *shape, tensor.channels)
    places = (coordinates[:, 0].long(), *index.long().unbind(1))
    return cells.index_put(places, tensor.features).movedim(-1, 1), low


def _weight(kernel: Tensor, size: int) -> Tensor:
    """[K, Cin, Cout], x fastest, to [Cin, Cout, x, y, z]."""
    return kernel.reshape(size, size, size, *kernel.shape[-2:]).permute(3, 4, 2, 1, 0)


def _rows(cells: Tensor, sites: Tensor, origin: Tensor, step: int) -> Tensor:
    index = (sites[:, 1:] - origin).div(step, rounding_mode="floor").long()
    return cells.movedim(1, -1)[(sites[:, 0].long(), *index.unbind(1))]
