"""Points to voxels and back."""

from typing import Any

import numpy as np
import pytest
import torch

from sparsepipe.engine.field import TensorField
from sparsepipe.engine.interpolation import interpolate
from sparsepipe.engine.layers import BatchNorm, Linear, MaxPooling, ReLU
from systems.schema import InputError
from tests.sparsepipe.clouds import assert_close


def field(points: int = 200, seed: int = 0) -> TensorField:
    """Points of two samples of three."""
    generator = torch.Generator().manual_seed(seed)
    space = torch.rand(points, 3, generator=generator, dtype=torch.float64) * 8 - 4
    batch = torch.randint(0, 2, (points, 1), generator=generator)
    features = torch.randn(points, 2, generator=generator, dtype=torch.float64)
    return TensorField(features, torch.cat([batch.double(), space], 1), batch_size=3)


@pytest.mark.parametrize("how", ["mean", "first", "sum", "max"])
@pytest.mark.parametrize("stride", [1, 2, (2, 1, 4)])
def test_points_of_a_voxel_become_one_row(how: Any, stride: Any) -> None:
    points = field()
    features = points.features.requires_grad_()
    tensor = points.sparse(stride, how)
    assert tensor.tensor_stride == stride
    assert tensor.batch_size == 3
    steps = np.broadcast_to(stride, 3)
    of_voxels: dict[tuple[int, ...], list[int]] = {}
    for number, (batch, *space) in enumerate(points.places.tolist()):
        cell = [int(np.floor(x / s)) * s for x, s in zip(space, steps, strict=True)]
        of_voxels.setdefault((int(batch), *cell), []).append(number)
    assert [tuple(voxel) for voxel in tensor.coordinates.tolist()] == list(of_voxels)
    reduce = {
        "mean": lambda rows: rows.mean(0),
        "first": lambda rows: rows[0],
        "sum": lambda rows: rows.sum(0),
        "max": lambda rows: rows.amax(0),
    }[how]
    expected = torch.stack([reduce(features[rows]) for rows in of_voxels.values()])
    assert_close(tensor.features, expected)
    weights = torch.randn_like(expected)
    ours, theirs = (
        torch.autograd.grad((y * weights).sum(), features)[0] for y in (tensor.features, expected)
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_sliced_field_has_the_row_of_each_points_voxel(stride: int) -> None:
    points = field()
    tensor = points.sparse()
    tensor = tensor if stride == 1 else MaxPooling(stride, stride)(tensor)
    sliced = points.slice(tensor)
    rows = {tuple(voxel): row for row, voxel in enumerate(tensor.coordinates.tolist())}
    for place, found in zip(points.places.tolist(), sliced.features, strict=True):
        cell = [int(np.floor(x / stride)) * stride for x in place[1:]]
        assert torch.equal(found, tensor.features[rows[int(place[0]), *cell]])
    assert torch.equal(points.interpolated(tensor).features, interpolate(tensor, points.places))
    assert sliced.batch_size == 3


def test_layers_without_neighbours_take_fields() -> None:
    points = field()
    linear, norm = Linear(2, 4), BatchNorm(4)
    layer = torch.nn.Sequential(linear, norm, ReLU()).double()
    plain = torch.nn.Sequential(linear.linear, norm.bn, torch.nn.ReLU())
    output = layer(points)
    assert isinstance(output, TensorField)
    assert_close(output.features, plain(points.features))
    assert output.places is points.places


def test_bad_fields_are_named() -> None:
    places = torch.zeros(2, 4)
    for act, message in (
        (lambda: TensorField(torch.zeros(2), places), "features are torch.float32 [2]"),
        (lambda: TensorField(torch.zeros(3, 1), places), "give a row for each point"),
        (lambda: TensorField(torch.zeros(2, 1), places * torch.nan), "NaN or infinite"),
        (lambda: TensorField(torch.zeros(2, 1), places - 1), "batch index -1: number"),
        (lambda: TensorField(torch.zeros(2, 1), places + 1e10), "up to 10000000000: give"),
        (lambda: field().sparse(0), "points lie in voxels from 1 on"),
        (lambda: field(seed=1).slice(field(3).sparse()), "points lie in none of the voxels"),
    ):
        with pytest.raises(InputError) as error:
            act()
        assert message in str(error.value)
