"""Interpolation against a loop over the dense grid, and on functions that are linear."""

import re
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch

from sparsepipe.engine.layers import GlobalMaxPooling, Interpolation, MaxPooling
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError
from tests.sparsepipe.clouds import random_tensor


def expected(tensor: SparseTensor, places: np.ndarray) -> np.ndarray:
    """From a dictionary of voxels."""
    stride = tensor.tensor_stride
    values = {
        tuple(cell): row.numpy()
        for cell, row in zip(tensor.coordinates.tolist(), tensor.features.detach(), strict=True)
    }
    found = np.zeros((len(places), tensor.channels))
    for row, (sample, *place) in enumerate(places):
        low = np.floor(np.array(place) / stride).astype(int)
        for corner in product((0, 1), repeat=3):
            cell = (low + corner) * stride
            weight = np.prod(1 - np.abs(place - cell) / stride)
            found[row] += weight * values.get((round(sample), *cell.tolist()), 0.0)
    return found


def random_places(count: int = 200) -> torch.Tensor:
    random = np.random.default_rng(0)
    samples = random.integers(0, 4, (count, 1)) + random.uniform(-0.4, 0.4, (count, 1))
    return torch.from_numpy(np.concatenate([samples, random.uniform(-8, 8, (count, 3))], 1))


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("mixed", [False, True])
def test_places_take_from_the_eight_voxels_around_them(stride: int, mixed: bool) -> None:
    tensor = random_tensor(3, voxels=900)
    if stride > 1:
        tensor = MaxPooling(stride, stride)(tensor)
    if mixed:
        order = torch.randperm(len(tensor), generator=torch.Generator().manual_seed(0))
        given = tensor.features[order], tensor.coordinates[order]
        tensor = SparseTensor(*given, stride, batch_size=4)
    places = random_places()
    found = Interpolation()(tensor, places)
    np.testing.assert_allclose(found.numpy(), expected(tensor, places.numpy()), atol=1e-12)
    assert (found != 0).any()
    assert (found == 0).all(1).any()  # no voxel is near


def test_voxels_themselves_give_back_their_features() -> None:
    tensor = random_tensor(3)
    places = tensor.coordinates.double()
    assert torch.equal(Interpolation()(tensor, places), tensor.features)
    bad = tensor.replace(tensor.features.index_fill(0, torch.tensor([5]), torch.nan))
    rows = Interpolation()(bad, places).isnan().any(1)
    assert rows.nonzero().tolist() == [[5]]
    half = Interpolation()(tensor.to(torch.float16), places.float())
    assert torch.equal(half, tensor.features.half())


def test_gradients_are_those_of_the_weighted_sums() -> None:
    tensor = random_tensor(2, voxels=300)
    places = random_places(40)
    features = tensor.features.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: Interpolation()(tensor.replace(x), places), [features], fast_mode=True
    )
    edge = torch.tensor([[0.0, 61439.5, 0, 0], [0, -61440.5, 0, 0], [0, 1e30, -1e30, 0]])
    assert Interpolation()(tensor, edge).tolist() == 3 * [[0.0, 0.0]]
    empty = SparseTensor(torch.zeros(0, 2), torch.zeros(0, 4, dtype=torch.int32), batch_size=1)
    assert Interpolation()(empty, torch.zeros(3, 4)).tolist() == 3 * [[0.0, 0.0]]
    assert Interpolation()(tensor, torch.zeros(0, 4)).shape == (0, 2)


PLACES = torch.zeros(1, 4)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda x: Interpolation()(x, PLACES[:, 1:]), "places are torch.float32 [1, 3]: give"),
        (lambda x: Interpolation()(x, PLACES.int()), "places are torch.int32 [1, 4]: give"),
        (lambda x: Interpolation()(x, PLACES * torch.nan), "NaN or infinite: remove them"),
        (lambda x: Interpolation()(x, PLACES + 4), "do not exist: give batch indices 0 to 3"),
        (lambda x: Interpolation()(x, PLACES - 1), "do not exist: give batch indices 0 to 3"),
        (lambda x: Interpolation()(x, PLACES.to("meta")), "features on cpu, places on meta"),
        (lambda x: Interpolation()(GlobalMaxPooling()(x), PLACES), "globally pooled tensor"),
    ],
)
def test_bad_input_is_named(act: Callable[[SparseTensor], object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        act(random_tensor())
    assert "\n" not in str(error.value)
