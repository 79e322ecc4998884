"""Quantization against a dictionary of points; batches; refusals."""

import operator
import re
from collections import Counter
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from sparsepipe.engine.layers import Convolution
from sparsepipe.engine.quantize import collate, sparse_quantize
from sparsepipe.engine.tensor import SparseTensor
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
    assert [len(values) for values in empty if values is not None] == 5 * [0]


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


@pytest.mark.parametrize("labels", [torch.int32, torch.uint8, torch.float64, None])
def test_labels_of_a_batch_are_int64_or_none(labels: torch.dtype | None) -> None:
    pair = VOXELS.coordinates, VOXELS.features
    given = pair if labels is None else (*pair, torch.tensor([3, 200]).to(labels))
    batch = collate([given, given])
    if labels is None:
        assert batch.labels is None
    else:
        assert batch.labels is not None
        assert batch.labels.dtype == torch.int64
        assert batch.labels.tolist() == [3, 200, 3, 200]


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
        (lambda: sparse_quantize(POINTS, (1, 2, 0)), "voxel size (1, 2, 0): give a length above 0"),
        (lambda: sparse_quantize(POINTS, (1, 2)), "voxel size (1, 2): give a length above 0, or"),
        (lambda: sparse_quantize(POINTS, float("nan")), "voxel size nan: give a length above 0"),
        (
            lambda: sparse_quantize(POINTS.repeat(1, 2), 1),
            "points are torch.float32 [3, 6]: give numbers",
        ),
        (lambda: sparse_quantize(POINTS > 0, 1), "points are torch.bool [3, 3]: give numbers"),
        (lambda: sparse_quantize([[0, 0, 0], [1, 2]], 1), "points: setting an array element"),
        (lambda: sparse_quantize([["a", "b", "c"]], 1), "points: <U1 is no type of real numbers"),
        (lambda: sparse_quantize(POINTS, 1, POINTS[:, 0]), "features are torch.float32 [3]"),
        (lambda: sparse_quantize(POINTS, 1, POINTS * 1j), "features: torch.complex64 is no type"),
        (lambda: sparse_quantize(POINTS * 1j, 1), "points: torch.complex64 is no type of real"),
        (
            lambda: sparse_quantize(POINTS, 1, None, torch.tensor(3)),
            "labels are torch.int64 []: give whole",
        ),
        (lambda: sparse_quantize(POINTS, 1, None, POINTS[:, 0]), "labels are torch.float32 [3]"),
        (lambda: sparse_quantize(POINTS, 1, None, POINTS.long()), "labels are torch.int64 [3, 3]"),
        (lambda: sparse_quantize(2**40 * POINTS.sign().long(), 1), "3 of 3 points are more than"),
        (lambda: sparse_quantize(POINTS, 1, POINTS[:2]), "3 points, 2 features"),
        (lambda: sparse_quantize(POINTS, 1, None, torch.zeros(4)), "3 points, 4 labels"),
        (
            lambda: sparse_quantize(POINTS, 1, duplicates="last"),  # type: ignore[arg-type]
            "duplicates = 'last': give 'mean', 'first'",
        ),
        (lambda: collate([]), "collate of no samples"),
        (lambda: collate([VOXELS, (POINTS.int(), POINTS[:1], None)]), "sample 1: features [1, 3]"),
        (
            lambda: collate([(POINTS.repeat(1, 2).int(), POINTS, None)]),
            "sample 0: coordinates have shape",
        ),
        (lambda: collate([VOXELS, (POINTS.int(), POINTS, None)]), "sample 1 has 3 channels"),
        (lambda: collate([VOXELS, (*VOXELS[:2], 3)]), "sample 1: labels do not fit"),
        (
            lambda: collate([VOXELS, (VOXELS.coordinates, VOXELS.features.double())]),
            "sample 1 has features of torch.float64, sample 0 of torch.float32: give the same",
        ),
        (
            lambda: collate([VOXELS, (VOXELS.coordinates, VOXELS.features * 1j)]),
            "sample 1: features: torch.complex64 is no type of real numbers",
        ),
        (
            lambda: collate([(*VOXELS[:2], torch.tensor([1.0, 2.5]))]),
            "sample 0: labels are torch.float32 [2], 1 of them not whole",
        ),
        (lambda: collate([(*VOXELS[:2], torch.ones(2, 1))]), "sample 0: labels do not fit"),
        (
            lambda: collate([VOXELS, (POINTS, POINTS, None)]),
            "sample 1: coordinates are torch.float32: quantize them",
        ),
        (
            lambda: collate([(VOXELS.coordinates.long() + 2**32, VOXELS.features, None)]),
            "sample 0: coordinates: 6 numbers are NaN or beyond what int32 holds",
        ),
        (
            lambda: sparse_quantize(np.ma.masked_equal(np.eye(3), 1), 1),
            "points: an array with masked numbers",
        ),
        (
            lambda: collate([(*VOXELS[:2], np.array([1, 2**64 - 1], np.uint64))]),
            "sample 0: labels: numbers of torch.uint64 beyond int64",
        ),
        (
            lambda: collate([(*VOXELS[:2], torch.tensor([1.0, 1e30]))]),
            "sample 0: labels are torch.float32 [2], 1 of them not whole, or beyond int64",
        ),
        (lambda: collate([(*VOXELS[:2], torch.zeros(9))]), "sample 0: labels do not fit"),
    ],
)
def test_bad_input_is_named(act: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        act()
    assert "\n" not in str(error.value)


TYPES = (
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "longdouble", ">f4", ">i8"),
)
KINDS: dict[str, Callable[[np.ndarray], object]] = {
    **{name: operator.methodcaller("astype", name) for name in TYPES},
    "list": lambda points: points.tolist(),
    "columns": np.asfortranarray,
    "backwards": lambda points: points[::-1].copy()[::-1],
    "strided": lambda points: np.repeat(points, 2, 1)[:, ::2],
    "read-only": lambda points: np.broadcast_to(points, points.shape),
    "tensor": torch.from_numpy,
    "long tensor": lambda points: torch.from_numpy(points).long(),
    "half tensor": lambda points: torch.from_numpy(points).half(),
    "bfloat16 tensor": lambda points: torch.from_numpy(points).bfloat16(),
    "transposed tensor": lambda points: torch.from_numpy(points.T.copy()).T,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error")
def test_numbers_of_any_kind_become_voxels_that_a_network_takes(kind: str) -> None:
    """Whole numbers up to 60, which all kinds hold exactly."""
    values = np.random.default_rng(0).integers(0, 60, (50, 3)).astype(np.float64)
    labels = np.arange(50) % 3
    reference = sparse_quantize(torch.from_numpy(values).float(), 7, None, torch.from_numpy(labels))
    given = KINDS[kind](values)
    found = sparse_quantize(given, 7, None, labels.astype(np.uint16))  # type: ignore[arg-type]
    for ours, theirs in zip(found, reference, strict=True):
        assert ours is not None
        assert theirs is not None
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    batch = collate([sparse_quantize(given, 7, given)])  # type: ignore[arg-type]
    if not kind.endswith("tensor") or kind == "long tensor":
        assert batch.features.dtype == torch.float32
    tensor = SparseTensor(batch.features, batch.coordinates, batch_size=batch.batch_size)
    assert Convolution(3, 2).to(batch.features.dtype)(tensor).features.shape == (len(tensor), 2)


def test_default_features_are_of_the_default_type() -> None:
    points = np.random.default_rng(0).random((20, 3)) - 0.5
    assert sparse_quantize(points, 0.1).features.dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert sparse_quantize(points.astype(np.float32), 0.1).features.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("duplicates", ["mean", "first"])
def test_index_and_inverse_join_points_and_voxels(duplicates: Literal["mean", "first"]) -> None:
    points = np.random.default_rng(0).random((80, 3)) * 2 - 1
    cells = np.floor(points / 0.7).astype(int)
    voxels = sparse_quantize(points, 0.7, duplicates=duplicates)
    assert voxels.index is not None
    assert voxels.inverse is not None
    expected, index, inverse = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    assert np.array_equal(voxels.coordinates.numpy(), expected)
    assert np.array_equal(voxels.index.numpy(), index)
    assert np.array_equal(voxels.inverse.numpy(), inverse.reshape(-1))
    without = sparse_quantize(points, 0.7, return_index=False, return_inverse=False)
    assert without.index is None
    assert without.inverse is None


def test_voxels_whose_points_differ_are_ignored() -> None:
    random = np.random.default_rng(0)
    points, labels = random.random((200, 3)), random.integers(-1, 3, 200)
    voxels = sparse_quantize(points, 0.25, None, labels, ignore_label=-100)
    assert voxels.labels is not None
    found = {}
    for cell, label in zip(voxels.coordinates.tolist(), voxels.labels.tolist(), strict=True):
        found[tuple(cell)] = label
    for cell in np.unique(np.floor(points / 0.25).astype(int), axis=0):
        there = set(labels[(np.floor(points / 0.25) == cell).all(1)].tolist())
        assert found[tuple(cell.tolist())] == (there.pop() if len(there) == 1 else -100)
    assert 0 < sum(label == -100 for label in found.values()) < len(found)


def test_voxels_of_unequal_edges() -> None:
    points = np.random.default_rng(0).random((100, 3)) * 4 - 2
    edges = (0.5, 0.25, 1.5)
    expected = np.unique(np.floor(points / edges).astype(int), axis=0)
    for size in (edges, list(edges), np.array(edges), torch.tensor(edges)):
        found = sparse_quantize(points, size).coordinates  # type: ignore[arg-type]
        assert np.array_equal(found.numpy(), expected)
    assert torch.equal(
        sparse_quantize(points, (0.5, 0.5, 0.5)).coordinates,
        sparse_quantize(points, 0.5).coordinates,
    )


AUGMENTATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda cells: cells,
    "flip": lambda cells: cells * torch.tensor([-1, 1, 1], dtype=torch.int32),
    "quarter turn": lambda cells: cells[:, [1, 0, 2]] * torch.tensor([1, -1, 1]),
    "shift": lambda cells: cells.long() - 30,
}


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_labels_stay_with_their_rows_when_clouds_are_augmented(augmentation: str) -> None:
    random = np.random.default_rng(0)
    clouds = []
    for _ in range(2):
        points = random.random((200, 3)).astype(np.float32)
        voxels = sparse_quantize(points, 0.1, points, points[:, 0] > 0.5, duplicates="first")
        mixed = torch.from_numpy(random.permutation(len(voxels.features)))
        cells = AUGMENTATIONS[augmentation](voxels.coordinates)
        clouds.append((cells, voxels.features, voxels.labels))
        assert voxels.labels is not None
        clouds.append((cells[mixed], voxels.features[mixed], voxels.labels[mixed]))
    for cells, features, labels in clouds:
        assert labels is not None
        assert torch.equal(
            sparse_quantize(cells, 1, features, labels, ignore_label=-100).labels.sort().values,  # type: ignore[union-attr]
            labels.sort().values,
        )
    batch = collate(clouds)
    tensor = SparseTensor(batch.features, batch.coordinates, batch_size=batch.batch_size)
    assert batch.labels is not None
    for x in (tensor, Convolution(3, 3, 1, 1)(tensor), tensor + tensor):
        assert torch.equal(x.coordinates, batch.coordinates)
    assert torch.equal((tensor.features[:, 0] > 0.5).long(), batch.labels[tensor.order])
