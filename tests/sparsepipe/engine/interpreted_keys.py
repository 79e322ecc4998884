"""Triton's kernel of keys on the CPU: `test_coordinates.py` runs this file with TRITON_INTERPRET=1,
which must be set before anything imports Triton."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from sparsepipe.engine import triton_keys
from sparsepipe.engine.coordinates import PACKINGS, packed
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError
from tests.sparsepipe.clouds import random_tensor
from tests.sparsepipe.engine.launches import as_on_gpu, counted

TYPES = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**16),
    voxels=st.integers(0, 2100),
    dimension=st.integers(1, 4),
    dtype=st.sampled_from(TYPES),
    sorts=st.booleans(),
)
def test_finds_what_pytorch_finds(
    seed: int, voxels: int, dimension: int, dtype: torch.dtype, sorts: bool
) -> None:
    torch.manual_seed(seed)
    coordinates = torch.randint(0, 100, (voxels, 1 + dimension)).to(dtype)
    keys, highest, _ = packed(coordinates)
    if sorts:
        coordinates = coordinates[keys.argsort()]
        keys = keys.sort().values
    ascending = bool((keys.diff() > 0).all())
    with as_on_gpu():
        ours = packed(coordinates)
        turned = packed(coordinates.t().contiguous().t())
    for found in (ours, turned):
        assert torch.equal(found[0], keys)
        assert found[1] == highest
    expected = torch.arange(voxels)
    assert ours[2] is None or torch.equal(ours[2], expected)
    assert (ours[2] is not None) == (ascending and voxels > 0)


@pytest.mark.parametrize("place", [0, triton_keys.ROWS - 1, triton_keys.ROWS, 2500])
def test_a_step_back_is_seen_wherever_it_is(place: int) -> None:
    coordinates = torch.zeros(2502, 4, dtype=torch.int32)
    coordinates[:, 3] = torch.arange(2502)
    assert triton_keys.packed(coordinates, PACKINGS[3])[1] is not None
    coordinates[place + 1, 3] = coordinates[place, 3]
    assert triton_keys.packed(coordinates, PACKINGS[3])[1] is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([-1, 0, 0, 0], "batch index -1 is not in"),
        ([4096, 0, 0, 0], "batch index 4096 is not in"),
        ([0, -(2**40), 0, 0], "coordinate x = -1099511627776 is not in"),
        ([0, 0, 2**17, 0], "coordinate y = 131072 is not in"),
        ([0, 0, 0, -(2**63)], "coordinate z = -9223372036854775808 is not in"),
    ],
)
def test_refuses_what_pytorch_refuses(wrong: list[int], message: str) -> None:
    coordinates = torch.tensor([[0, 1, 2, 3], wrong, [1, 2, 3, 4]])
    with pytest.raises(InputError, match=message):
        packed(coordinates)
    with pytest.raises(InputError, match=message), as_on_gpu():
        packed(coordinates)


@pytest.mark.parametrize("order", [torch.arange(120), torch.arange(120).flip(0)])
def test_rows_have_the_order_that_they_have_on_a_cpu(order: Tensor) -> None:
    given = random_tensor()
    features, coordinates = given.features[order], given.coordinates[order]
    here = SparseTensor(features, coordinates)
    with as_on_gpu():
        there = SparseTensor(features, coordinates)
    for name in ("features", "keys", "order", "inverse", "rows"):
        assert torch.equal(getattr(here, name), getattr(there, name))


def test_sorted_voxels_are_one_launch_and_one_wait() -> None:
    features, coordinates = random_tensor().features, random_tensor().coordinates
    with as_on_gpu(), counted() as asked:
        SparseTensor(features, coordinates)
    assert dict(asked.launches) == {"pack_kernel": 1}
    assert dict(asked.waits) == {"tolist": 1}
