"""Sparse tensors: row order, samples, sums, grids, and refusals."""

import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsepipe.layers import Convolution, ConvolutionTranspose, MaxPooling
from sparsepipe.tensor import SparseTensor, cat
from systems.schema import InputError
from tests.sparsepipe.clouds import random_tensor

ONE = torch.ones(1, 2)
ORIGIN = torch.zeros(1, 4, dtype=torch.int32)


@given(st.randoms(use_true_random=False))
def test_order_of_input_rows_does_not_matter(random: object) -> None:
    tensor = random_tensor(3)
    order = list(range(len(tensor)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = SparseTensor(tensor.features[order], tensor.coordinates[order], batch_size=4)
    assert torch.equal(shuffled.features, tensor.features)
    torch.manual_seed(0)
    model = nn.Sequential(Convolution(3, 4, 3, 2), MaxPooling(), ConvolutionTranspose(4, 2, 2, 2))
    model.double()
    assert torch.equal(model(shuffled).features, model(tensor).features)


def test_gradients_find_their_unsorted_rows() -> None:
    coordinates = torch.tensor([[0, 0, 0, 2], [0, 0, 0, 1]], dtype=torch.int32)
    features = torch.ones(2, 1, requires_grad=True)
    tensor = SparseTensor(features, coordinates)
    (tensor.features * torch.tensor([[1.0], [2.0]])).sum().backward()
    assert features.grad is not None
    assert features.grad.tolist() == [[2.0], [1.0]]


def test_samples_are_slices_and_empty_ones_stay() -> None:
    tensor = random_tensor(3)
    assert tensor.batch_size == 4
    for sample, rows in enumerate(tensor.decomposed):
        assert torch.equal(rows, tensor.features[tensor.coordinates[:, 0] == sample])
    assert [len(rows) > 0 for rows in tensor.decomposed] == [True, False, True, False]
    assert Convolution(3, 4, 3, 2).double()(tensor).batch_size == 4


def test_sums_and_cat_keep_the_voxels() -> None:
    tensor = random_tensor(3)
    twin = random_tensor(3)  # its own maps, equal voxels
    assert torch.equal((tensor + twin).features, 2 * tensor.features)
    joined = cat([tensor, twin, tensor])
    assert joined.features.shape == (len(tensor), 9)
    assert joined.maps is tensor.maps


def test_dense_holds_every_row_and_nothing_else() -> None:
    tensor = random_tensor(3)
    coarse = MaxPooling(2, 2)(tensor)
    for sparse in (tensor, coarse):
        cells, first = sparse.dense()
        index = (sparse.coordinates[:, 1:] - first) // sparse.tensor_stride
        places = (sparse.coordinates[:, 0].long(), *index.long().unbind(1))
        assert torch.equal(cells.movedim(1, -1)[places], sparse.features)
        assert int((cells != 0).sum()) == int((sparse.features != 0).sum())
        assert cells.shape[:2] == (4, 3)


def _tensor(features: Tensor, coordinates: list[list[int]], *rest: int) -> SparseTensor:
    return SparseTensor(features, torch.tensor(coordinates, dtype=torch.int32), *rest)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: _tensor(torch.ones(3, 1), [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]]),
            "1 of 3 coordinates are duplicates: merge them with sparsepipe.quantize",
        ),
        (
            lambda: _tensor(torch.ones(2, 1), [[0, 0, 0, 1], [0, 0, 0, 1]]),
            "1 of 2 coordinates are duplicates",
        ),
        (lambda: SparseTensor(torch.ones(2, 1), ORIGIN), "2 rows of features, 1 of coordinates"),
        (lambda: SparseTensor(torch.ones(1), ORIGIN), "give floating point [N, C]"),
        (lambda: SparseTensor(ONE.int(), ORIGIN), "features are torch.int32"),
        (lambda: SparseTensor(ONE.to("meta"), ORIGIN), "features on meta, coordinates on cpu"),
        (lambda: SparseTensor(ONE, ORIGIN + 1, 2), "1 of 1 coordinates are no multiples"),
        (lambda: SparseTensor(ONE, ORIGIN + 1, 0), "1 of 1 coordinates are no multiples"),
        (lambda: SparseTensor(ONE, ORIGIN, -1), "tensor stride -1"),
        (lambda: SparseTensor(ONE, ORIGIN + 1, batch_size=1), "give batch_size from 2 to 4096"),
        (lambda: SparseTensor(ONE[:0], ORIGIN[:0]), "batch size 0 with batch indices up to -1"),
        (lambda: SparseTensor(ONE, ORIGIN + 99999), "batch index 99999 is not in"),
        (lambda: SparseTensor(ONE, ORIGIN).replace(torch.ones(2, 2)), "for 1 voxels: give [1, C]"),
        (lambda: SparseTensor(ONE, ORIGIN) + SparseTensor(ONE, ORIGIN + 1), "different voxels"),
        (
            lambda: cat([SparseTensor(ONE, ORIGIN), SparseTensor(ONE, ORIGIN, batch_size=2)]),
            "different voxels",
        ),
        (
            lambda: SparseTensor(ONE, ORIGIN) + SparseTensor(ONE[:, :1], ORIGIN),
            "2 and 1 channels cannot be added: use cat",
        ),
        (lambda: cat([]), "cat of no tensors"),
        (lambda: SparseTensor(ONE[:0], ORIGIN[:0], batch_size=1).dense(), "has no grid"),
    ],
)
def test_bad_input_is_named(act: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        act()
    assert "\n" not in str(error.value)
