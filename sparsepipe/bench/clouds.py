"""The clouds that engines compete on."""

import math

import torch
from torch import Tensor, nn

from sparsepipe.bench.engines import Task
from sparsepipe.data.load import load
from sparsepipe.engine.quantize import collate, sparse_quantize
from systems.schema import InputError

POINTS = 20_000
"""The points of each generated shape, where the cloud's name does not say."""


def task(cloud: str, channels: int) -> Task:
    """Make the task of a convolution of some channels (0: of a network) on a cloud.

    A cloud is `sphere:SIDE` or `sphere:SIDExBATCH`, a surface that fills a cube of SIDE voxels; or
    `shapes:VOXEL_SIZE`, `shapes:VOXEL_SIZExBATCH` or `shapes:VOXEL_SIZExBATCHxPOINTS`, generated
    shapes in the unit cube.

    Raises:
        InputError: the cloud is none of these.
    """
    kind, _, sizes = cloud.partition(":")
    size, *more = sizes.split("x")
    try:
        batch_size, points = [*map(int, more), *(1, POINTS)[len(more) :]]  # with defaults
        if kind == "sphere":
            coordinates, side = _spheres(int(size), batch_size), int(size)
        elif kind == "shapes":
            coordinates = _shapes(float(size), batch_size, points)
            side = max(int(coordinates[:, 1:].amax()) + 1, math.ceil(1 / float(size)))
        else:
            raise ValueError(kind)
    except ValueError:
        raise InputError(
            f"cloud {cloud!r}: give sphere:SIDE, sphere:SIDExBATCH or shapes:VOXEL_SIZExBATCH"
        ) from None
    return Task(coordinates=coordinates, batch_size=batch_size, side=side, channels=channels)


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


def _shapes(voxel_size: float, batch_size: int, points: int) -> Tensor:
    """The coordinates of a batch of generated shapes, int32 [N, 4]."""
    split = load("shapes", points=points).train
    clouds = [torch.from_numpy(split.cloud(index).points) for index in range(batch_size)]
    # Each cloud starts at the origin, since spconv does not take negative coordinates.
    return collate([sparse_quantize(p - p.amin(0), voxel_size) for p in clouds]).coordinates
