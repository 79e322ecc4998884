"""Code written for MinkowskiEngine gives what it gave there, or is refused by name. Nothing is
taken for something else on the way."""

from typing import Any

import numpy as np
import pytest
import torch

import sparsepipe.minkowski as ME
from systems.schema import InputError

CELLS = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0]], dtype=torch.int32)
ROWS = torch.arange(8.0).view(4, 2)
FAR = CELLS.long() + torch.tensor([0, 2**32, 0, 0])
POINTS = [np.zeros((2, 3), np.int32)] * 2


def tensor() -> ME.SparseTensor:
    """Four voxels in two samples."""
    return ME.SparseTensor(ROWS, CELLS)


def test_floating_point_coordinates_are_rounded_down_everywhere() -> None:
    low = CELLS.float()
    low[:, 1:] -= 0.5
    expected = CELLS - torch.tensor([0, 1, 1, 1])
    manager = ME.CoordinateManager(3)
    key, _ = manager.insert_and_map(low)
    assert torch.equal(manager.get_coordinates(key), expected)
    with pytest.warns(UserWarning, match="rounded down"):
        assert torch.equal(ME.SparseTensor(ROWS, low).C, expected)
    with pytest.warns(UserWarning, match="rounded down"):
        at = ME.MinkowskiConvolution(2, 2, 3, dimension=3)(tensor(), low)
    assert torch.equal(at.C, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
def test_slices_find_the_voxel_of_each_row_that_was_given(stride: int, dtype: torch.dtype) -> None:
    """Far from the origin, where bfloat16 has no coordinates; in any order; at any stride."""
    given = torch.cat([CELLS, CELLS[:1]]) + torch.tensor([0, 257, 0, 0])
    source = ME.SparseTensor(torch.ones(5, 2, dtype=dtype), given)
    coarse = ME.MinkowskiMaxPooling(stride, stride, dimension=3)(source)
    order = torch.randperm(len(coarse), generator=torch.Generator().manual_seed(0))
    rows = torch.arange(len(coarse) * 2).view(-1, 2).to(dtype)
    other = ME.SparseTensor(rows[order], coarse.C[order], tensor_stride=stride)
    sliced = other.slice(source)
    assert torch.equal(sliced.C, given.double())
    number = {tuple(cell): row for cell, row in zip(coarse.C.tolist(), rows, strict=True)}
    for (batch, *space), found in zip(given.tolist(), sliced.F, strict=True):
        assert torch.equal(found, number[batch, *(c // stride * stride for c in space)])
    assert other.cat_slice(source).F.shape == (5, 4)


def test_a_volume_keeps_its_empty_samples() -> None:
    volume = torch.zeros(3, 1, 2, 2, 2)
    volume[1, 0, 1, 0, 1] = 5
    made = ME.to_sparse(volume)
    assert made.samples == 3
    assert ME.MinkowskiGlobalAvgPooling()(made).F[:, 0].tolist() == [0, 5, 0]
    assert torch.equal(ME.MinkowskiToDenseTensor(volume.shape)(made), volume)
    assert not len(ME.to_sparse(volume * 0))
    assert torch.equal(ME.to_sparse(volume * 0).dense(shape=volume.shape)[0], volume * 0)


def test_a_grid_from_the_coordinates_that_were_given() -> None:
    grid, first, _ = tensor().dense(min_coordinate=torch.tensor([-1, 0, 0]))
    assert grid.shape == (2, 2, 4, 1, 1)
    assert grid[0, :, :, 0, 0].t().tolist() == [[0, 0], *ROWS[:3].tolist()]
    assert first.tolist() == [[-1, 0, 0]]


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
@pytest.mark.parametrize(
    ("dtype", "ignored", "same"), [("uint8", -100, False), ("uint8", 255, True), ("int8", -1, True)]
)
def test_labels_hold_the_one_that_is_ignored(
    kind: Any, dtype: str, ignored: int, same: bool
) -> None:
    labels = kind([1, 2, 3], dtype=np.dtype(dtype) if kind is np.array else getattr(torch, dtype))
    points = np.array([[0.1, 0, 0], [0.2, 0, 0], [5, 0, 0]])
    _, found = ME.utils.sparse_quantize(points, labels=labels, ignore_label=ignored)
    assert found.tolist() == [ignored, 3]
    assert (found.dtype == labels.dtype) == same
    assert ME.utils.sparse_quantize(points, labels=[1, 2, 3])[1].tolist() == [-100, 3]


def test_a_generator_that_expands_serves_the_layer_that_does() -> None:
    generator = ME.KernelGenerator(2, 2, expand_coordinates=True, dimension=3)
    coarse = ME.MinkowskiMaxPooling(2, 2, dimension=3)(tensor())
    layer = ME.MinkowskiGenerativeConvolutionTranspose(2, 2, kernel_generator=generator)
    assert len(layer(coarse)) == 8 * len(coarse)
    with pytest.raises(InputError, match="take MinkowskiGenerativeConvolutionTranspose"):
        ME.MinkowskiMaxPooling(2, 2, kernel_generator=generator)


def _fields() -> list[ME.TensorField]:
    return [ME.TensorField(ROWS, CELLS.float() + x) for x in (0, torch.tensor([0, 5, 0, 0]))]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: ME.SparseTensor(ROWS, FAR), "coordinates: 4 numbers are NaN or beyond"),
        (
            lambda: ME.MinkowskiConvolution(2, 2, 3, dimension=3)(tensor(), FAR),
            "coordinates: 4 numbers are NaN or beyond",
        ),
        (
            lambda: ME.CoordinateManager(3).insert_and_map(FAR),
            "coordinates: 4 numbers are NaN or beyond",
        ),
        (
            lambda: ME.utils.batched_coordinates([CELLS[:, 1:], CELLS[:, 1:] * torch.nan]),
            "sample 1: coordinates: 12 numbers are NaN",
        ),
        (
            lambda: ME.utils.sparse_collate(POINTS, [torch.ones(1, 1), torch.ones(3, 1)]),
            "features of [1, 3] rows for samples of [2, 2] voxels",
        ),
        (
            lambda: ME.utils.sparse_collate(POINTS, [torch.ones(4, 1)]),
            "features of [4] rows for samples of [2, 2] voxels",
        ),
        (
            lambda: ME.utils.sparse_collate(
                POINTS, [torch.ones(2, 1)] * 2, [torch.ones(1), torch.ones(3)]
            ),
            "labels of [1, 3] rows for samples of [2, 2] voxels",
        ),
        (
            lambda: ME.utils.SparseCollation(1)([(POINTS[0], torch.ones(2, 1))]),
            "a batch whose first sample has more than 1 points",
        ),
        (lambda: ME.utils.sparse_quantize(POINTS[0], torch.ones(3, 1)), "2 points, 3 features"),
        (lambda: tensor().dense(min_coordinate=1), "from [1, 1, 1] on does not hold all voxels"),
        (lambda: tensor().dense(shape=(2, 2, 1, 1, 1)), "does not hold all voxels"),
        (lambda: tensor().dense(shape=(1, 2, 3, 1, 1)), "a grid of 1 samples"),
        (lambda: ME.cat(*_fields()), "fields of different points"),
        (lambda: ME.cat(_fields()[0], tensor()), "or tensors among them"),
        (lambda: ME.sum(tensor(), _fields()[0]), "or tensors among them"),
        (
            lambda: tensor().coordinate_manager.stride_map(
                tensor().coordinate_map_key,
                ME.SparseTensor(ROWS[:2], CELLS[1:3] * 8, tensor_stride=2).coordinate_map_key,
            ),
            "stride_map to other voxels at tensor stride 2",
        ),
        (
            lambda: ME.SparseTensor(ROWS.int(), coordinate_map_key=tensor().coordinate_map_key),
            "features are torch.int32 on cpu: give floating point",
        ),
        (
            lambda: ME.to_sparse(torch.ones(1, 1, 2, 2, 2), coordinates=CELLS),
            "to_sparse finds the coordinates",
        ),
        (
            lambda: ME.MinkowskiToSparseTensor(coordinates=CELLS),
            "give remove_zeros=False with them",
        ),
        (lambda: ME.MinkowskiGlobalPooling("GLOBAL_MAX_POOLING_DEFAULT"), "of a pooling by AVG"),
        (
            lambda: ME.MinkowskiSinusoidal(2, 3)(tensor().double()),
            "features are torch.float64, kernel is torch.float32",
        ),
        (lambda: tensor() * torch.tensor(1j), "a tensor of torch.complex64"),
        (
            lambda: ME.MinkowskiBatchNorm(2, track_running_stats=False).eval()(
                ME.SparseTensor(ROWS[:1], CELLS[:1])
            ),
            "the batch's own statistics on 1 voxels",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(act: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        act()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
