"""The clouds that engines compete on, by name.

    kitti~VOXELS, meshes~VOXELS, shapes~VOXELS      a batch of about so many voxels
    shapes:VOXEL_SIZE[xBATCH[xPOINTS]]              generated shapes in the unit cube
    sphere:SIDE[xBATCH]                             a surface that fills a cube of SIDE voxels

KITTI's frames and the meshes are in the folder that TESTBED_DATA names. Shapes are generated.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sparsepipe.bench.task import Task
from sparsepipe.data.cloud_files import files, read_kitti
from sparsepipe.data.load import load
from sparsepipe.data.mesh_files import SUFFIXES, read_mesh
from sparsepipe.engine.quantize import collate, sparse_quantize
from systems.schema import InputError

POINTS = 20_000
"""The points of each generated shape, where the cloud's name does not say."""
BATCH = 4
"""The clouds of a batch of meshes or shapes of about so many voxels."""
POINTS_PER_VOXEL = 10
"""So many points are drawn from a surface that few voxels that it crosses are left out."""
NEAR = 0.02
"""How far a number of voxels may lie from the one that was asked for, as a fraction."""
FOLDERS = {"kitti": "lidar", "meshes": "meshes"}
"""Where the data of a kind of cloud are in the folder that TESTBED_DATA names."""
REMEDY = (
    "give kitti~VOXELS, meshes~VOXELS, shapes~VOXELS, sphere:SIDE, sphere:SIDExBATCH or "
    "shapes:VOXEL_SIZExBATCH"
)


def task(cloud: str, channels: int = 0, network: str = "") -> Task:
    """Make the task of a layer of some channels, of a network, or of neither, on a cloud.

    Raises:
        InputError: there is no such cloud, or its data are not here.
    """
    kind, _, sizes = cloud.replace("~", ":~").partition(":")
    try:
        if sizes.startswith("~"):
            coordinates, batch_size = _about(cloud, kind, int(sizes[1:]))
            shape = _box(coordinates)
        else:
            size, *more = sizes.split("x")
            batch_size, points = [*map(int, more), *(1, POINTS)[len(more) :]]  # with defaults
            if kind == "sphere":
                coordinates, side = _spheres(int(size), batch_size), int(size)
            elif kind == "shapes":
                coordinates = _collated(_shapes(batch_size, points), float(size))
                side = max(*_box(coordinates), math.ceil(1 / float(size)))
            else:
                raise ValueError(kind)
            shape = side, side, side
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cloud {cloud!r}: {REMEDY}") from None
    return Task(
        coordinates=coordinates,
        batch_size=batch_size,
        shape=shape,
        channels=channels,
        network=network,
    )


def has_data(cloud: str) -> bool:
    """Whether the data of a cloud are here; generated ones always are."""
    kind = cloud.partition("~")[0]
    return kind not in FOLDERS or bool(_files(kind))


def shell(side: int) -> Tensor:
    """The voxels of a sphere's surface that fills a cube of `side` voxels: int32 [N, 3], sorted."""
    axis = torch.arange(side)
    plane = torch.cartesian_prod(axis, axis)
    middle, planes = (side - 1) / 2, []
    for x in range(side):  # plane by plane: the whole grid would set the peak of memory
        distance = ((plane - middle).square().sum(1) + (x - middle) ** 2).sqrt()
        near = plane[(distance - 0.45 * side).abs() < 0.5]
        planes.append(nn.functional.pad(near, (1, 0)) + torch.tensor([x, 0, 0]))
    return torch.cat(planes).int()


def _spheres(side: int, batch_size: int) -> Tensor:
    """The coordinates of a batch of equal spheres, int32 [N, 4]."""
    surface = shell(side)
    return torch.cat([nn.functional.pad(surface, (1, 0), value=b) for b in range(batch_size)])


def _about(cloud: str, kind: str, voxels: int) -> tuple[Tensor, int]:
    """The coordinates of a batch of about so many voxels, int32 [N, 4], and its number of clouds.

    The voxel size is found by bisection: the larger the voxels, the fewer there are.
    """
    if kind not in BATCHES or voxels < 1:
        raise ValueError(kind)
    if not has_data(cloud):
        raise InputError(
            f"cloud {cloud!r}: no data in $TESTBED_DATA/{FOLDERS[kind]}; give shapes~{voxels}, or "
            "set TESTBED_DATA"
        )
    points = BATCHES[kind](voxels)
    extent = max(float(np.ptp(one, axis=0).max()) for one in points)
    fine, coarse = extent / 4096, 2 * extent
    if len(_collated(points, fine)) < (1 - NEAR) * voxels:
        most = len(_collated(points, fine))
        raise InputError(f"cloud {cloud!r}: it has {most:,} voxels at most; give {kind}~{most}")
    while True:
        size = math.sqrt(fine * coarse)
        found = _collated(points, size)
        if abs(len(found) - voxels) <= NEAR * voxels or coarse < 1.0001 * fine:
            return found, len(points)
        fine, coarse = (size, coarse) if len(found) > voxels else (fine, size)


def _kitti(voxels: int) -> list[np.ndarray]:
    """The points of the first frame."""
    del voxels
    return [read_kitti(_files("kitti")[0]).points]


def _meshes(voxels: int) -> list[np.ndarray]:
    """Points of the first meshes, each scaled into the unit cube."""
    clouds = []
    for path in islice(_files("meshes"), BATCH):
        points, _ = read_mesh(path).sample(_points(voxels), np.random.default_rng(0))
        clouds.append(points / np.ptp(points, axis=0).max())
    return clouds


def _shapes(batch_size: int, points: int) -> list[np.ndarray]:
    """Points of generated shapes."""
    split = load("shapes", points=points).train
    return [split.cloud(index).points for index in range(batch_size)]


BATCHES: Mapping[str, Callable[[int], list[np.ndarray]]] = {
    "kitti": _kitti,
    "meshes": _meshes,
    "shapes": lambda voxels: _shapes(BATCH, _points(voxels)),
}
"""What makes the points of a batch that is cut into so many voxels."""


def _points(voxels: int) -> int:
    """The points of each cloud of a batch that is cut into so many voxels."""
    return max(64, POINTS_PER_VOXEL * voxels // BATCH)


def _files(kind: str) -> list[Path]:
    """The files of a kind of cloud in the folder that TESTBED_DATA names."""
    folder = os.environ.get("TESTBED_DATA")
    suffixes = {"kitti": (".bin",), "meshes": SUFFIXES}[kind]
    return files(Path(folder, FOLDERS[kind]), suffixes) if folder else []


def _collated(clouds: Sequence[np.ndarray], voxel_size: float) -> Tensor:
    """The voxels of a batch of clouds, int32 [N, 4]. Each cloud starts at the origin, since spconv
    takes no negative coordinates."""
    origins = (torch.from_numpy(points - points.min(axis=0)) for points in clouds)
    return collate([sparse_quantize(points, voxel_size) for points in origins]).coordinates


def _box(coordinates: Tensor) -> tuple[int, int, int]:
    """The cells along each axis of the box from 0 on that contains the voxels."""
    x, y, z = (coordinates[:, 1:].amax(0) + 1).tolist()
    return x, y, z
