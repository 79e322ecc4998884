"""Tables of kernel maps are made together, as they were used the last time, and no others."""

import copy
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from sparsepipe.engine import kernel_map as module
from sparsepipe.engine.backends import pytorch
from sparsepipe.engine.coordinate_maps import CoordinateMaps
from sparsepipe.engine.kernel_map import KernelMap
from sparsepipe.engine.layers import Convolution, ConvolutionTranspose, Pruning
from sparsepipe.engine.layouts import Neighbours, side_by_side
from sparsepipe.engine.lookup import Wanted
from sparsepipe.engine.tensor import SparseTensor
from tests.sparsepipe.clouds import assert_close, random_tensor
from tests.sparsepipe.engine.interpreted import run_interpreted


class Tabular:
    """PyTorch's backend, which uses tables as Triton's does."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        _ = kernel_map.neighbours
        return pytorch.forward(x, weight, kernel_map)

    @staticmethod
    def backward(
        gradient: Tensor,
        x: Tensor,
        weight: Tensor,
        kernel_map: KernelMap,
        needed: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        turned = kernel_map.transpose
        _ = kernel_map.neighbours if turned.opposite else turned.neighbours
        return pytorch.backward(gradient, x, weight, kernel_map, needed)


@pytest.fixture
def rounds() -> Iterator[list[int]]:
    """How many tables were made together, each time."""
    made: list[int] = []

    def noting(wanted: list[Wanted]) -> list[Neighbours]:
        if wanted:
            made.append(len(wanted))
        return side_by_side(wanted)

    with (
        mock.patch.object(module, "side_by_side", noting),
        mock.patch("sparsepipe.engine.backends.backend", return_value=Tabular),
    ):
        yield made


def _network() -> nn.Sequential:
    """Two layers down and one up. Its tables: 3^3 at stride 1; 2^3 from stride 1 to 2, from 2 to 4
    and back; and, for a gradient, from 2 to 1."""
    torch.manual_seed(0)
    layers = [Convolution(3, 4), Convolution(4, 4, 2, 2), Convolution(4, 5, 2, 2)]
    return nn.Sequential(*layers, ConvolutionTranspose(5, 3, 2, 2)).double()


def _step(network: nn.Module, tensor: SparseTensor) -> Tensor:
    features: Tensor = network(tensor).features
    features.square().sum().backward()
    return features


def test_the_second_step_makes_all_tables_at_once(rounds: list[int]) -> None:
    network = _network()
    _step(network, random_tensor())
    assert rounds == [1] * 5
    found = _step(network, random_tensor(voxels=150, seed=1))
    assert rounds == [1] * 5 + [5]
    assert_close(found, _step(_network(), random_tensor(voxels=150, seed=1)))


def test_what_was_not_used_last_is_not_made(rounds: list[int]) -> None:
    network = _network()
    _step(network, random_tensor())
    for _ in range(2):
        rounds.clear()
        with torch.no_grad():
            network(random_tensor())
    assert rounds == [4]  # without that of the gradients
    rounds.clear()
    alone = random_tensor()
    network[0](alone)
    assert len(alone.maps.strides) == 3  # as with the layers that it was called with the last time
    again = random_tensor()
    network[0](again)
    assert again.maps.strides == (1,)
    assert rounds == [4, 1]


def test_a_cpu_makes_nothing_ahead() -> None:
    network = _network()
    for _ in range(2):
        tensor = random_tensor()
        network[:1](tensor)
        assert tensor.maps.strides == (1,)
        assert not tensor.maps.asked


def test_layers_forget_no_other_network(rounds: list[int]) -> None:
    network, other = _network(), Convolution(3, 3, 5).double()
    for _ in range(2):
        rounds.clear()
        _step(network, random_tensor())
        _step(other, random_tensor())
    assert rounds == [5, 1]


def test_voxels_that_are_not_there_are_left_out(rounds: list[int]) -> None:
    layer = Convolution(3, 3).double()
    layer(random_tensor())
    tensor = random_tensor()
    coarse = SparseTensor(tensor.features, tensor.coordinates * torch.tensor([1, 4, 4, 4]), 4)
    rounds.clear()
    layer(coarse)
    assert coarse.maps.strides == (4,)
    assert rounds == [1]


def test_pruned_voxels_have_tables_of_their_own(rounds: list[int]) -> None:
    first, second = Convolution(3, 3).double(), Convolution(3, 3, 2, 2).double()
    expected = []
    for _ in range(2):
        tensor = first(random_tensor())
        pruned = Pruning()(tensor, torch.arange(len(tensor)) % 3 > 0)
        expected.append(second(pruned).features)
    assert torch.equal(*expected)
    assert rounds == [1] * 4


def test_prepared_maps_have_the_tables_too(rounds: list[int]) -> None:
    network, first = _network(), random_tensor()
    _step(network, first)
    rounds.clear()
    second = random_tensor(voxels=150, seed=1)
    second.maps.prepare(first.maps)
    assert rounds == [5]
    _step(network, second)
    assert rounds == [5]


def test_copies_of_a_layer_begin_anew(rounds: list[int]) -> None:
    network = _network()
    _step(network, random_tensor())
    rounds.clear()
    _step(copy.deepcopy(network), random_tensor())
    assert rounds == [1] * 5


@pytest.mark.slow
def test_a_network_interpreted() -> None:
    run_interpreted(Path(__file__).with_name("interpreted_network.py"))


def test_voxels_are_reached_by_way_of_finer_ones() -> None:
    maps: CoordinateMaps = random_tensor().maps
    maps.reach([8, 2, 4])
    assert maps.strides == (1, 2, 4, 8)
    maps.reach([3, (2, 2, 1), 0])
    assert maps.strides == (1, 2, (2, 2, 1), 3, 4, 8)
