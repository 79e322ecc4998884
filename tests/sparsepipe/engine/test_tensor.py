"""Sparse tensors: row order, samples, sums, grids, and refusals."""

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from sparsepipe.engine.layers import Convolution, ConvolutionTranspose, MaxPooling, ReLU
from sparsepipe.engine.tensor import SparseTensor, cat
from systems.schema import InputError
from tests.ranks import run_ranks
from tests.sparsepipe.clouds import random_tensor

ONE = torch.ones(1, 2)
ORIGIN = torch.zeros(1, 4, dtype=torch.int32)


def shuffled(tensor: SparseTensor, seed: int = 0) -> tuple[SparseTensor, Tensor]:
    """The same voxels with their rows in a random order, and that order."""
    order = torch.randperm(len(tensor), generator=torch.Generator().manual_seed(seed))
    given = tensor.features[order], tensor.coordinates[order]
    return SparseTensor(*given, batch_size=tensor.batch_size), order


@given(st.integers(0, 2**32))
def test_rows_stay_in_the_order_in_which_they_were_given(seed: int) -> None:
    tensor = random_tensor(3)
    given, order = shuffled(tensor, seed)
    assert torch.equal(given.features, tensor.features[order])
    assert torch.equal(given.coordinates, tensor.coordinates[order])
    assert torch.equal(given.rows, tensor.features)
    assert torch.equal(given.keys, tensor.keys)
    assert given.order.tolist() == given.inverse.tolist() == list(range(len(tensor)))
    torch.manual_seed(0)
    model = nn.Sequential(Convolution(3, 4, 3, 2), MaxPooling(), ConvolutionTranspose(4, 2, 2, 2))
    model.double()
    assert torch.equal(model(given).features, model(tensor).features)  # at stride 2, sorted
    model.append(ConvolutionTranspose(2, 5, 2, 2).double())
    assert torch.equal(model(given).features, model(tensor).features[order])
    assert torch.equal(model(given).coordinates, tensor.coordinates[order])
    grids = [model(x).dense()[0] for x in (given, tensor)]
    assert torch.equal(*grids)


def test_labels_of_shuffled_voxels_are_learned() -> None:
    """What a user's own voxelizer gives: any order, and a label beside each row."""
    torch.manual_seed(0)
    tensor, _ = shuffled(random_tensor(3, torch.float32, voxels=400))
    labels = (tensor.coordinates[:, 1] >= 0).long()
    inputs = tensor.replace(torch.cat([tensor.features, labels[:, None] * 2.0 - 1], 1))
    model = nn.Sequential(Convolution(4, 8, 3), ReLU(), Convolution(8, 2, 1))
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(30):
        logits = model(inputs).features
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    assert (logits.argmax(1) == labels).float().mean() > 0.95


def test_gradients_find_their_unsorted_rows() -> None:
    coordinates = torch.tensor([[0, 0, 0, 2], [0, 0, 0, 1]], dtype=torch.int32)
    features = torch.ones(2, 1, requires_grad=True)
    tensor = SparseTensor(features, coordinates)
    layer = Convolution(1, 1, 1)
    nn.init.ones_(layer.kernel)
    (layer(tensor).features * torch.tensor([[1.0], [2.0]])).sum().backward()
    assert features.grad is not None
    assert features.grad.tolist() == [[1.0], [2.0]]


DUPLICATES = torch.tensor([[1, 0, 0, 0], [0, 5, 0, 0], [0, -2, 0, 0], [0, 5, 0, 0], [0, 5, 0, 0]])


def test_duplicates_are_merged_where_the_first_of_them_was() -> None:
    features = torch.tensor([[1.0], [2.0], [3.0], [4.0], [9.0]], requires_grad=True)
    first = SparseTensor(features, DUPLICATES, duplicates="first")
    assert first.features.tolist() == [[1.0], [2.0], [3.0]]
    assert first.order.tolist() == [0, 1, 2]
    assert first.inverse.tolist() == [0, 1, 2, 1, 1]
    assert torch.equal(first.coordinates, DUPLICATES[:3].int())
    assert torch.equal(first.coordinates[first.inverse], DUPLICATES.int())
    mean = SparseTensor(features, DUPLICATES, duplicates="mean")
    assert mean.features.tolist() == [[1.0], [5.0], [3.0]]
    (mean.features * torch.tensor([[1.0], [6.0], [1.0]])).sum().backward()
    assert features.grad is not None
    assert features.grad.tolist() == [[1.0], [2.0], [1.0], [2.0], [2.0]]
    assert [rows.tolist() for rows in mean.decomposed] == [[[5.0], [3.0]], [[1.0]]]


@pytest.mark.parametrize("sort", [True, False])
def test_pruned_rows_keep_the_labels_that_they_were_given(sort: bool) -> None:
    tensor = random_tensor(3)
    if not sort:
        tensor, _ = shuffled(tensor)
    mask = torch.rand(len(tensor), generator=torch.Generator().manual_seed(0)) < 0.5
    pruned = tensor.keep(mask)
    labels = torch.arange(len(tensor)) * 3
    assert torch.equal(labels[pruned.order], labels[mask])
    again = pruned.to("meta").order  # what moves has an order too
    assert again.shape == pruned.order.shape
    second = torch.arange(len(pruned)) % 2 == 0
    assert torch.equal(labels[pruned.keep(second).order], labels[mask][second])
    with pytest.raises(InputError, match="rows were pruned: index with the mask"):
        _ = pruned.inverse


def test_pruned_rows_of_merged_duplicates_name_the_first_of_them() -> None:
    merged = SparseTensor(torch.ones(5, 1), DUPLICATES[[3, 1, 0, 2, 4]], duplicates="mean")
    assert merged.order.tolist() == [0, 2, 3]
    assert merged.keep(torch.tensor([False, True, True])).order.tolist() == [2, 3]


def test_pruned_voxels_of_a_layer_have_no_given_order() -> None:
    coarse = MaxPooling()(shuffled(random_tensor(3))[0])
    pruned = coarse.keep(torch.arange(len(coarse)) % 2 == 0)
    assert torch.equal(pruned.coordinates, coarse.coordinates[::2])
    with pytest.raises(InputError, match="a layer made the voxels at tensor stride 2"):
        _ = pruned.order


def test_samples_are_slices_and_empty_ones_stay() -> None:
    tensor = random_tensor(3)
    assert tensor.batch_size == 4
    for sample, rows in enumerate(tensor.decomposed):
        assert torch.equal(rows, tensor.features[tensor.coordinates[:, 0] == sample])
    assert [len(rows) > 0 for rows in tensor.decomposed] == [True, False, True, False]
    assert Convolution(3, 4, 3, 2).double()(tensor).batch_size == 4


def test_samples_keep_the_order_of_their_rows() -> None:
    tensor, _ = shuffled(random_tensor(3))
    for sample, rows in enumerate(tensor.decomposed):
        assert torch.equal(rows, tensor.features[tensor.coordinates[:, 0] == sample])


def test_sums_and_cat_of_voxels_in_different_orders() -> None:
    tensor = random_tensor(3)
    mixed, order = shuffled(tensor)
    again, _ = shuffled(tensor, seed=1)
    assert torch.equal((mixed + again).features, 2 * tensor.features[order])
    assert torch.equal((tensor - mixed).features, torch.zeros(len(tensor), 3))
    joined = cat([mixed, tensor, again])
    assert torch.equal(joined.features, tensor.features[order].repeat(1, 3))


@pytest.mark.parametrize("mixed", [False, True])
def test_arithmetic_is_numpys(mixed: bool) -> None:
    tensor = random_tensor(3)
    twin = random_tensor(3).replace(torch.rand(len(tensor), 3, dtype=torch.float64) + 1)
    if mixed:
        tensor, _ = shuffled(tensor)
    x = tensor.features.numpy()
    y = SparseTensor.on(tensor.maps, 1, twin.rows).features.numpy()
    row, column = torch.rand(3, dtype=torch.float64), torch.rand(len(tensor), 1).double()
    results = [
        (tensor + twin, x + y),
        (tensor - twin, x - y),
        (tensor * twin, x * y),
        (tensor / twin, x / y),
        (-tensor, -x),
        *((tensor + 2, x + 2), (2 + tensor, 2 + x), (tensor - 2, x - 2), (2 - tensor, 2 - x)),
        *((tensor * 2, x * 2), (2 * tensor, 2 * x), (tensor / 2, x / 2), (2 / tensor, 2 / x)),
        *((np.float64(2) * tensor, 2 * x), (tensor * np.float64(2), 2 * x)),
        *((np.float64(2) - tensor, 2 - x), (torch.tensor(2.0) / tensor, 2 / x)),
        *((tensor * row, x * row.numpy()), (row - tensor, row.numpy() - x)),
        (tensor * column, x * column.numpy()),
        (sum([tensor, tensor]), x + x),
    ]
    for found, expected in results:
        assert isinstance(found, SparseTensor)
        assert found.maps is tensor.maps
        assert np.array_equal(found.features.numpy(), expected)


def test_arithmetic_has_gradients() -> None:
    tensor = random_tensor(2, voxels=6)

    def result(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        one, other = tensor.replace(x), tensor.replace(y)
        return ((2 - one) * other / 3 + one * scale - other - 1).features

    inputs = [torch.rand(6, 2).double(), torch.rand(6, 2).double(), torch.rand(2).double()]
    assert torch.autograd.gradcheck(result, [value.requires_grad_() for value in inputs])


def test_tensors_move_with_their_voxels() -> None:
    tensor, _ = shuffled(random_tensor(3))
    coarse = MaxPooling()(tensor)
    assert tensor.to("cpu").maps is tensor.maps
    assert torch.equal(tensor.to("cpu").features, tensor.features)
    half = tensor.to(torch.float16)
    assert torch.equal(half.features, tensor.features.half())
    assert half.maps is tensor.maps
    assert torch.equal(tensor.to("cpu", torch.float32).coordinates, tensor.coordinates)
    there = coarse.to(device="meta", dtype=torch.float32)  # the one other device everywhere
    assert there.features.device.type == there.coordinates.device.type == "meta"
    assert there.features.dtype == torch.float32
    assert there.maps.strides == (1, 2)
    assert there.maps.unsorted(1, torch.empty(len(tensor), 3, device="meta")).is_meta
    assert there.batch_size == 4


def test_pinned_it_is_the_same_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pinning needs a GPU's driver.
    monkeypatch.setattr(Tensor, "pin_memory", lambda values: values.clone())
    given, _ = shuffled(random_tensor(3))
    MaxPooling(2, 2)(given)
    pinned = given.pin_memory()
    assert pinned.features is not given.features
    assert pinned.maps is not given.maps
    assert torch.equal(pinned.features, given.features)
    assert torch.equal(pinned.inverse, given.inverse)
    assert torch.equal(pinned.rows, given.rows)
    assert pinned.maps.sizes(2) == given.maps.sizes(2)


def test_torchs_nested_structures_hold_features() -> None:
    tensor, _ = shuffled(random_tensor(3))
    leaves, structure = pytree.tree_flatten({"x": [tensor, 1]})
    assert leaves[0] is tensor.features
    again = pytree.tree_unflatten(leaves, structure)["x"][0]
    assert isinstance(again, SparseTensor)
    assert again.maps is tensor.maps
    doubled = pytree.tree_map(lambda leaf: leaf * 2, tensor)
    assert torch.equal(doubled.features, 2 * tensor.features)
    assert pytree.tree_map(len, tensor).features == len(tensor)
    replaced = dataclasses.replace(tensor, features=doubled.features)  # as FSDP does
    assert replaced.maps is tensor.maps
    assert torch.equal(replaced.features, doubled.features)


class TwoHeads(nn.Module):
    """Returns sparse tensors in a dictionary; the layer `spare` has no part in them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.spare = Convolution(2, 4), Convolution(4, 4)
        self.first, self.second = Convolution(4, 3), Convolution(4, 3)

    def forward(self, inputs: SparseTensor) -> dict[str, list[SparseTensor]]:
        middle = self.body(inputs)
        return {"heads": [self.first(middle), self.second(middle)]}


def _gradients(network: nn.Module, rank: int) -> dict[str, Tensor]:
    """Of a loss on one of the heads, on a rank's clouds; zeros where there are none."""
    first, _ = network(random_tensor(2, torch.float32, seed=rank))["heads"]
    first.features.square().sum().backward()
    return {
        name.removeprefix("module."): torch.zeros_like(weight)
        if weight.grad is None
        else weight.grad
        for name, weight in network.named_parameters()
    }


def _data_parallel() -> list[dict[str, Tensor]]:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = [
        _gradients(DistributedDataParallel(TwoHeads(), find_unused_parameters=True), rank),
        _gradients(DistributedDataParallel(TwoHeads(), static_graph=True), rank),
    ]
    dist.barrier()
    dist.destroy_process_group()
    return found


def test_data_parallel_networks_return_sparse_tensors() -> None:
    ranks = run_ranks(2, _data_parallel)
    alone = [_gradients(TwoHeads(), rank) for rank in range(2)]
    assert any(alone[0]["first.kernel"].flatten() != 0)
    for found in (*ranks[0], *ranks[1]):
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, (alone[0][name] + alone[1][name]) / 2)


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
        assert isinstance(sparse.tensor_stride, int)
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
            "1 of 3 coordinates are duplicates: merge them with sparsepipe.engine.quantize",
        ),
        (
            lambda: _tensor(torch.ones(2, 1), [[0, 0, 0, 1], [0, 0, 0, 1]]),
            "1 of 2 coordinates are duplicates",
        ),
        (lambda: SparseTensor(torch.ones(2, 1), ORIGIN), "2 rows of features, 1 of coordinates"),
        (lambda: SparseTensor(torch.ones(1), ORIGIN), "give floating point [N, C]"),
        (lambda: SparseTensor(ONE.int(), ORIGIN), "features are torch.int32"),
        (
            lambda: SparseTensor(ONE.numpy(), ORIGIN),  # type: ignore[arg-type]
            "features are a ndarray: give a torch.Tensor",
        ),
        (lambda: SparseTensor(ONE), "coordinates are a NoneType: give a torch.Tensor"),
        (
            lambda: SparseTensor(ONE, ORIGIN, maps=SparseTensor(ONE, ORIGIN).maps),
            "maps contain the coordinates and the batch size",
        ),
        (
            lambda: SparseTensor(ONE, maps=SparseTensor(ONE[:0], ORIGIN[:0], batch_size=1).maps),
            "for 0 v",
        ),
        (lambda: SparseTensor(ONE.to("meta"), ORIGIN), "features on meta, coordinates on cpu"),
        (lambda: SparseTensor(ONE, ORIGIN + 1, 2), "1 of 1 coordinates are no multiples"),
        (lambda: SparseTensor(ONE, ORIGIN + 1, 0), "1 of 1 coordinates are no multiples"),
        (lambda: SparseTensor(ONE, ORIGIN, -1), "tensor stride -1"),
        (lambda: SparseTensor(ONE, ORIGIN + 1, batch_size=1), "give batch_size from 2 to 4096"),
        (lambda: SparseTensor(ONE[:0], ORIGIN[:0]), "batch size 0 with batch indices up to -1"),
        (lambda: SparseTensor(ONE, ORIGIN + 99999), "batch index 99999 is not in"),
        (lambda: SparseTensor(ONE, ORIGIN).replace(torch.ones(2, 2)), "for 1 voxels: give [1, C]"),
        (lambda: SparseTensor(ONE, ORIGIN) * SparseTensor(ONE, ORIGIN + 1), "different voxels"),
        (
            lambda: SparseTensor(ONE, ORIGIN) + SparseTensor(ONE, ORIGIN, tensor_stride=2),
            "different voxels",
        ),
        (
            lambda: cat([SparseTensor(ONE, ORIGIN), SparseTensor(ONE, ORIGIN, batch_size=2)]),
            "different voxels",
        ),
        (
            lambda: SparseTensor(ONE, ORIGIN) + SparseTensor(ONE[:, :1], ORIGIN),
            "2 and 1 channels cannot be added or multiplied: use cat",
        ),
        (
            lambda: SparseTensor(ONE, ORIGIN) * torch.ones(2, 1),
            "a tensor of torch.float32, [2, 1], and",
        ),
        (lambda: SparseTensor(ONE, ORIGIN, batch_size=2.5), "batch size 2.5: give a whole number"),  # type: ignore[arg-type]
        (lambda: SparseTensor(ONE, ORIGIN) + torch.ones(5), "a tensor of torch.float32, [5], and"),
        (
            lambda: torch.ones(1, 1, 2) * SparseTensor(ONE, ORIGIN),
            "a tensor of torch.float32, [1, 1, 2]",
        ),
        (
            lambda: SparseTensor(ONE, ORIGIN, duplicates="avg"),  # type: ignore[arg-type]
            "duplicates = 'avg': give one of refuse, mean, first, sum, max",
        ),
        (
            lambda: SparseTensor(ONE, ORIGIN).keep(ONE[:, 0].int()),
            "the mask is torch.int32 [1] for 1",
        ),
        (
            lambda: SparseTensor(ONE.repeat(2, 1), torch.eye(2, 4).int()).keep(ONE[:, 0] > 0),
            "the mask is torch.bool [1] for 2 voxels: give torch.bool [2]",
        ),
        (
            lambda: SparseTensor(ONE, ORIGIN).keep([True]),  # type: ignore[arg-type]
            "the mask is a list: give a torch.Tensor",
        ),
        (lambda: SparseTensor(ONE, ORIGIN).to(torch.int32), "cannot become torch.int32"),
        (
            lambda: MaxPooling()(SparseTensor(ONE, ORIGIN)).order,
            "a layer made the voxels at tensor stride 2",
        ),
        (lambda: MaxPooling()(SparseTensor(ONE, ORIGIN)).inverse, "have no given order"),
        (lambda: cat([]), "cat of no tensors"),
        (lambda: SparseTensor(ONE[:0], ORIGIN[:0], batch_size=1).dense(), "has no grid"),
    ],
)
def test_bad_input_is_named(act: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        act()
    assert "\n" not in str(error.value)
