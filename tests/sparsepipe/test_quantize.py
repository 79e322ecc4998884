"""Quantization against a dictionary of points; batches; refusals."""

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsepipe.quantize import collate, sparse_quantize
from sparsepipe.tensor import SparseTensor
from systems.schema import InputError

POINT = st.tuples(*3 * [st.floats(-2, 2)])
POINTS = torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.1, 0.1], [-0.1, 0.0, 0.0]])


@given(st.lists(POINT, max_size=40), st.sampled_from([0.3, 0.5, 2.0]), st.randoms())
def test_voxels_are_those_of_a_dictionary(
    points: list[tuple[float, ...]], size: float, random: object
) -> None:
    cloud = torch.tensor(points, dtype=torch.float64).view(-1, 3)
    labels = torch.tensor([random.randint(-1, 2) for _ in points])  # type: ignore[attr-defined]
    cells: dict[tuple[int, ...], list[int]] = {}
    for row, cell in enumerate((cloud / size).floor().int().tolist()):
        cells.setdefault(tuple(cell), []).append(row)
    mean = sparse_quantize(cloud, size, cloud, labels.long())
    first = sparse_quantize(cloud, size, cloud, labels.long(), duplicates="first")
    assert mean.coordinates.tolist() == [list(cell) for cell in sorted(cells)]
    assert mean.labels is not None
    for row, cell in enumerate(sorted(cells)):
        rows = cells[cell]
        torch.testing.assert_close(mean.features[row], cloud[rows].mean(0))
        assert torch.equal(first.features[row], cloud[rows[0]])
        counts = Counter(labels[rows].tolist())
        assert mean.labels[row] == min(counts, key=lambda name: (-counts[name], name))


def test_voxels_of_a_boundary_and_of_no_points() -> None:
    assert sparse_quantize(POINTS, 0.5).coordinates.tolist() == [[-1, 0, 0], [0, 0, 0]]
    assert sparse_quantize(POINTS, 0.5).features.tolist() == [[1.0], [1.0]]
    empty = sparse_quantize(POINTS[:0], 0.5, labels=torch.zeros(0, dtype=torch.int64))
    assert [len(values) for values in empty if values is not None] == [0, 0, 0]


def test_a_batch_fits_its_tensor_row_by_row() -> None:
    voxels = sparse_quantize(POINTS, 0.15, POINTS, torch.tensor([3, 4, 5]))
    batch = collate([voxels, sparse_quantize(POINTS[:0], 1, POINTS[:0], torch.zeros(0)), voxels])
    tensor = SparseTensor(batch.features, batch.coordinates, batch_size=batch.batch_size)
    assert tensor.batch_size == 3
    assert torch.equal(tensor.features, batch.features)
    assert torch.equal(tensor.coordinates, batch.coordinates)
    assert batch.labels is not None
    assert batch.labels.tolist() == [5, 3, 4, 5, 3, 4]
    named = collate([(voxels.coordinates, voxels.features, 7)] * 2)
    assert named.labels is not None
    assert named.labels.tolist() == [7, 7]


VOXELS = sparse_quantize(POINTS, 0.5)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: sparse_quantize(POINTS / torch.tensor([[1.0], [0.0], [1.0]]), 1),
            "1 of 3 points are NaN or infinite",
        ),
        (lambda: sparse_quantize(POINTS * torch.nan, 1), "3 of 3 points are NaN or infinite"),
        (lambda: sparse_quantize(POINTS * 1e30, 1), "3 of 3 points are more than 61440 voxels"),
        (lambda: sparse_quantize(POINTS, 0), "voxel size 0: give a length above 0"),
        (lambda: sparse_quantize(POINTS[:, :2], 1), "give floating point [N, 3]"),
        (lambda: sparse_quantize(POINTS.int(), 1), "points are torch.int32 [3, 3]"),
        (lambda: sparse_quantize(POINTS, 1, POINTS[:2]), "3 points, 2 features"),
        (lambda: sparse_quantize(POINTS, 1, None, torch.zeros(4)), "3 points, 4 labels"),
        (
            lambda: sparse_quantize(POINTS, 1, duplicates="last"),  # type: ignore[arg-type]
            "duplicates = 'last': give 'mean' or 'first'",
        ),
        (lambda: collate([]), "collate of no samples"),
        (lambda: collate([VOXELS, (POINTS.int(), POINTS[:1], None)]), "sample 1: features [1, 3]"),
        (
            lambda: collate([(POINTS[:, :2].int(), POINTS, None)]),
            "sample 0: coordinates have shape",
        ),
        (lambda: collate([VOXELS, (POINTS.int(), POINTS, None)]), "sample 1 has 3 channels"),
        (lambda: collate([VOXELS, (*VOXELS[:2], 3)]), "sample 1: labels do not fit"),
        (lambda: collate([(*VOXELS[:2], torch.zeros(9))]), "sample 0: labels do not fit"),
    ],
)
def test_bad_input_is_named(act: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        act()
    assert "\n" not in str(error.value)


def test_arrays_are_taken_as_tensors() -> None:
    points = np.random.default_rng(0).random((50, 3), dtype=np.float32)
    labels = np.arange(50) % 3
    ours = sparse_quantize(points, 0.3, points, labels)
    theirs = sparse_quantize(
        torch.from_numpy(points), 0.3, torch.from_numpy(points), torch.from_numpy(labels)
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))  # type: ignore[arg-type]
