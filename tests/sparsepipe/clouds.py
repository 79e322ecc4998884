"""Clouds for the tests, and how close results must be."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsepipe.engine.coordinates import pack
from sparsepipe.engine.quantize import collate, sparse_quantize
from sparsepipe.engine.tensor import SparseTensor

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Largest error, relative to the largest value, that sums in another order may make."""


def random_tensor(
    channels: int = 3, dtype: torch.dtype = torch.float64, voxels: int = 120, seed: int = 0
) -> SparseTensor:
    """Four samples in [-5, 5)^3, sorted, of which the second and the last one are empty."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(2 * 10**3, generator=generator)[:voxels]
    fields = [cells // 1000 * 2, *(cells // 10**place % 10 - 5 for place in (2, 1, 0))]
    features = torch.randn(voxels, channels, generator=generator, dtype=dtype)
    coordinates = torch.stack(fields, 1).int()
    order = pack(coordinates).argsort()
    return SparseTensor(features[order], coordinates[order], batch_size=4)


def random_keys(seed: int, voxels: int, stride: int = 1) -> Tensor:
    """The keys of at most so many voxels in two samples at a tensor stride, int64, sorted."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(-4, 5, (voxels, 4), generator=generator, dtype=torch.int32)
    cells[:, 0].remainder_(2)
    cells[:, 1:] *= stride
    return torch.unique(pack(cells))


def full_volume(volume: torch.Tensor) -> SparseTensor:
    """All cells of a dense volume [B, C, X, Y, Z] as voxels from 0 on, the rows in their order."""
    batch, channels, *sizes = volume.shape
    cells = torch.cartesian_prod(torch.arange(batch), *map(torch.arange, sizes)).int()
    return SparseTensor(volume.movedim(1, -1).reshape(-1, channels), cells, batch_size=batch)


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


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Equal to the dtype's tolerance."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    error = float((actual - expected).detach().abs().max())
    assert error <= TOLERANCE[actual.dtype] * max(float(expected.detach().abs().max()), 1e-30)
