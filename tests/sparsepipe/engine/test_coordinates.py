"""Packing round-trips, orders as coordinates do, and refuses what it cannot hold."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, strategies as st

from sparsepipe.engine import compiled_maps
from sparsepipe.engine.axes import axes
from sparsepipe.engine.coordinate_maps import CoordinateMaps
from sparsepipe.engine.coordinates import (
    LIMIT,
    MAX_BATCH_SIZE,
    REACH,
    can_be_stacked,
    coarsened,
    displacement,
    kernel_offsets,
    pack,
    packing,
    pyramid,
    sample_starts,
    unpack,
)
from systems.schema import InputError
from tests.sparsepipe.clouds import random_keys
from tests.sparsepipe.engine.interpreted import run_interpreted

AXIS = st.integers(-LIMIT, LIMIT - 1) | st.integers(-3, 3)
VOXEL = st.tuples(st.integers(0, MAX_BATCH_SIZE - 1), AXIS, AXIS, AXIS)
STEP = st.integers(-REACH, REACH)


def test_interpreted() -> None:
    run_interpreted(Path(__file__).with_name("interpreted_keys.py"))


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


GRIDS = st.integers(1, 4).flatmap(
    lambda d: st.tuples(
        st.lists(
            st.tuples(
                st.integers(0, 3), *d * [st.integers(-packing(d).limit, 40) | st.integers(-9, 9)]
            ),
            max_size=30,
        ),
        st.lists(st.tuples(*d * [st.sampled_from([1, 2, 4, 64, 512])]), min_size=1, max_size=4),
    )
)


@given(GRIDS)
def test_a_pyramid_is_what_is_coarsened_at_each_stride(
    grid: tuple[list[tuple[int, ...]], list[tuple[int, ...]]],
) -> None:
    voxels, strides = grid
    dimension = len(strides[0])
    keys = torch.unique(pack(torch.tensor(voxels, dtype=torch.int32).view(-1, 1 + dimension)))
    assert all(can_be_stacked(axes(stride), dimension) for stride in strides)
    found = pyramid(keys, [axes(stride) for stride in strides], dimension)
    assert len(found) == len(strides)
    for level, stride in zip(found, strides, strict=True):
        assert torch.equal(level, coarsened(keys, stride, dimension))


def test_strides_that_may_round_beyond_the_limits_are_not_stacked() -> None:
    assert can_be_stacked(REACH)
    assert can_be_stacked((1, 2, 4))
    assert not any(can_be_stacked(stride) for stride in (3, 6, 2 * REACH, (2, 3, 1)))


@given(st.integers(0, 2**16), st.sampled_from([2, 3, (1, 2, 4)]), st.booleans())
def test_what_is_made_ahead_is_what_layers_would_make(
    seed: int, factor: int | tuple[int, ...], added: bool
) -> None:
    """With voxels between that no layer made, too."""
    keys, other = random_keys(seed, 60), random_keys(seed + 1, 20, 12)
    with mock.patch.object(compiled_maps, "functions", return_value=None):
        maps, stride = CoordinateMaps(keys, 1, 2), axes(1)
        for level in range(6):
            if level == 2 and added:
                stride = axes(12)
                maps.add(stride, other)
            finer = maps.keys(stride)
            stride = maps.coarsen(stride, factor)
            assert torch.equal(maps.keys(stride), coarsened(finer, stride))
        assert maps.coarsen(1, 2) == 2
        maps.add(4, other)  # where those of stride 4 would be
        assert torch.equal(maps.keys(maps.coarsen(4, 2)), coarsened(maps.keys(4), 8))


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
