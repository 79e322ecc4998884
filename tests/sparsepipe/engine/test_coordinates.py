"""Packing round-trips, orders as coordinates do, and refuses what it cannot hold."""

import pytest
import torch
from hypothesis import given, strategies as st

from sparsepipe.engine.coordinates import (
    LIMIT,
    MAX_BATCH_SIZE,
    REACH,
    coarsened,
    displacement,
    kernel_offsets,
    pack,
    sample_starts,
    unpack,
)
from systems.schema import InputError

AXIS = st.integers(-LIMIT, LIMIT - 1) | st.integers(-3, 3)
VOXEL = st.tuples(st.integers(0, MAX_BATCH_SIZE - 1), AXIS, AXIS, AXIS)
STEP = st.integers(-REACH, REACH)


@given(st.lists(VOXEL, max_size=20))
def test_packing_round_trips_and_sorts_batch_first(voxels: list[tuple[int, ...]]) -> None:
    coordinates = torch.tensor(voxels, dtype=torch.int32).view(-1, 4)
    keys = pack(coordinates)
    assert torch.equal(unpack(keys), coordinates)
    assert unpack(keys.sort().values).tolist() == [list(voxel) for voxel in sorted(voxels)]


@given(VOXEL, VOXEL, STEP, STEP, STEP)
def test_a_moved_key_is_the_moved_voxels_alone(
    voxel: tuple[int, ...], other: tuple[int, ...], x: int, y: int, z: int
) -> None:
    key, second = pack(torch.tensor([voxel, other])).tolist()
    moved = (voxel[0], voxel[1] + x, voxel[2] + y, voxel[3] + z)
    assert (key + displacement(x, y, z) == second) == (moved == other)


@given(st.lists(VOXEL, max_size=20), st.integers(1, 9))
def test_coarsened_is_the_floor(voxels: list[tuple[int, ...]], stride: int) -> None:
    coarse = {(b, *(value // stride * stride for value in space)) for b, *space in voxels}
    small = [voxel for voxel in coarse if min(voxel[1:]) >= -LIMIT]
    kept = [voxel for voxel in voxels if all(v // stride * stride >= -LIMIT for v in voxel[1:])]
    keys = coarsened(pack(torch.tensor(kept, dtype=torch.int32).view(-1, 4)), stride)
    assert unpack(keys).tolist() == [list(voxel) for voxel in sorted(small)]


def test_offsets_enumerate_x_fastest_and_even_kernels_start_at_zero() -> None:
    assert kernel_offsets(2, 3)[:3] == [(0, 0, 0), (3, 0, 0), (0, 3, 0)]
    assert kernel_offsets(3)[:4] == [(-1, -1, -1), (0, -1, -1), (1, -1, -1), (-1, 0, -1)]
    assert kernel_offsets(5, 2)[62] == (0, 0, 0)


def test_sample_starts_part_the_batch() -> None:
    voxels = torch.tensor([[0, LIMIT - 1, 0, 0], [1, -LIMIT, -LIMIT, -LIMIT], [4095, 0, 0, 0]])
    found = torch.searchsorted(pack(voxels), sample_starts(MAX_BATCH_SIZE, voxels.device))
    assert found[[0, 1, 2, 4095, 4096]].tolist() == [0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("coordinates", "message"),
    [
        (torch.tensor([[0, 0, LIMIT, 0]]), f"coordinate y = {LIMIT} is not in"),
        (torch.tensor([[0, 0, 0, -LIMIT - 1]]), f"coordinate z = {-LIMIT - 1} is not in"),
        (torch.tensor([[-1, 0, 0, 0]]), "batch index -1 is not in"),
        (torch.tensor([[MAX_BATCH_SIZE, 0, 0, 0]]), f"batch index {MAX_BATCH_SIZE} is not in"),
        (torch.zeros(1, 6).int(), r"shape \[1, 6\]: give \[N, 4\]"),
        (torch.zeros(1, 4), "torch.float32: quantize them"),
    ],
)
def test_bad_coordinates_are_named(coordinates: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pack(coordinates)
