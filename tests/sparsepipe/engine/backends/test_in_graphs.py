"""Networks under torch.compile are one graph, with the same values and gradients."""

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsepipe.engine.backends import convolve, in_graphs
from sparsepipe.engine.kernel_map import Kernel, KernelMap, _living
from sparsepipe.engine.layers import BatchNorm, Convolution, ConvolutionTranspose, ReLU
from sparsepipe.engine.tensor import SparseTensor, cat
from sparsepipe.models import MinkUNet
from tests.sparsepipe.clouds import random_tensor


class Small(nn.Module):
    """Down, up, and joined with what it came from."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.relu = Convolution(3, 4), BatchNorm(4), ReLU()
        self.down, self.up = Convolution(4, 6, 2, 2), ConvolutionTranspose(6, 4, 2, 2)
        self.last = Convolution(8, 2, 1, bias=True)

    def forward(self, tensor: SparseTensor) -> Tensor:
        fine = self.relu(self.norm(self.first(tensor)))
        return self.last(cat([self.up(self.relu(self.down(fine))), fine])).features


def _in_graphs(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """What a compiled graph calls."""
    voxels = kernel_map.input_keys, kernel_map.output_keys
    found: Tensor = in_graphs.convolve(features, weight, *voxels, kernel_map.handle, "native")
    return found


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_outlive_the_maps(stride: int, transposed: bool) -> None:
    """A training step may drop its tensors before the backward pass of its loss."""
    maps = random_tensor(3).maps
    maps.coarsen(1, stride)
    kernel_map = maps.kernel_map(Kernel(3, 1, 1, stride), transposed=transposed)
    rows = len(kernel_map.input_keys)
    features = torch.randn(rows, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(27, 3, 4, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(
        convolve(features, weight, kernel_map).square().sum(), [features, weight]
    )
    loss = _in_graphs(features, weight, kernel_map).square().sum()
    number = int(kernel_map.handle[0])
    del maps, kernel_map
    gc.collect()
    assert number not in _living
    for ours, theirs in zip(torch.autograd.grad(loss, [features, weight]), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda maps: pickle.loads(pickle.dumps(maps))])
def test_copied_maps_have_handles_of_their_own(copied: Callable[[Any], Any]) -> None:
    """Those of another process may be numbered alike."""
    tensor, kernel = random_tensor(3), Kernel(3, 1, 1, 1)
    weight = torch.randn(27, 3, 4, dtype=torch.float64)
    expected = convolve(tensor.features, weight, tensor.maps.kernel_map(kernel))
    again = copied(tensor.maps).kernel_map(kernel)
    assert int(again.handle[0]) != int(tensor.maps.kernel_map(kernel).handle[0])
    assert again.input_keys is again.output_keys
    assert torch.equal(_in_graphs(tensor.features, weight, again), expected)


def test_the_operator_has_the_values_and_gradients_of_convolve() -> None:
    tensor = random_tensor(3)
    kernel_map = tensor.maps.kernel_map(Kernel(3, 1, 1, 1))
    weight = torch.randn(27, 3, 4, dtype=torch.float64, requires_grad=True)
    features = tensor.features.requires_grad_()
    found = _in_graphs(features, weight, kernel_map)
    expected = convolve(features, weight, kernel_map)
    gradient = torch.randn_like(expected)
    results = [
        (y.detach(), *torch.autograd.grad(y, [features, weight], gradient))
        for y in (found, expected)
    ]
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_prepared_maps_have_all_that_a_network_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    network, first = Small().double(), random_tensor(3)
    network(first)
    second = random_tensor(3, voxels=150, seed=1)
    expected = network(random_tensor(3, voxels=150, seed=1))
    second.maps.prepare(first.maps)
    monkeypatch.setattr("sparsepipe.engine.coordinate_maps.build", None)
    assert torch.equal(network(second), expected)


def minkunet14() -> nn.Module:
    return MinkUNet(3, 5, width=1 / 16, depth=14)


@pytest.mark.slow
@pytest.mark.parametrize("make", [Small, minkunet14])
def test_a_network_is_one_graph_whatever_the_number_of_voxels(
    make: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    network, first = make(), random_tensor(3, torch.float32)
    network(first)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    for seed in range(3):
        tensor = random_tensor(3, torch.float32, voxels=100 + 20 * seed, seed=seed)
        tensor.maps.prepare(first.maps)
        gradients = []
        for call in (network, compiled):
            network.zero_grad()
            output = call(tensor)
            output = output.features if isinstance(output, SparseTensor) else output
            output.square().sum().backward()
            gradients.append([output.detach(), *(p.grad for p in network.parameters())])
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs)
