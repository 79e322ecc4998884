"""Profiles of networks: their layers, bytes counted by hand, what a measurement leaves alone."""

import pytest
import torch
from torch import nn

from sparsepipe.data import load as clouds
from sparsepipe.engine.layers import Convolution
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models import NETWORKS
from sparsepipe.runtime.network import Network
from sparsepipe.train.profiling import activation_bytes, first_mini_batch, profile_network
from systems.profiles.profile import ModelProfile
from systems.schema import InputError
from tests.sparsepipe.clouds import random_tensor


def profiled(name: str, inputs: SparseTensor) -> tuple[Network, ModelProfile]:
    torch.manual_seed(2)
    network = Network(NETWORKS[name](3, 5, width=1 / 16))
    profile = profile_network(
        network, inputs, name=name, device_kind="cpu", repetitions=2, warm_up=0
    )
    return network, profile


@pytest.mark.parametrize("name", ["minkvgg16-bn", "minkunet14"])
def test_layer_i_of_the_profile_is_layer_i_of_the_network(name: str) -> None:
    inputs = random_tensor(3, torch.float32, voxels=1500)
    network, profile = profiled(name, inputs)
    assert profile.batch_size == inputs.batch_size
    for layer, cost in zip(network.layers, profile.layers, strict=True):
        assert cost.name == layer.name
        assert cost.inputs == layer.inputs
        assert cost.operation == layer.operation
        assert cost.parameter_bytes == layer.parameter_bytes
        assert cost.forward_s > 0
        assert cost.backward_s > 0


def test_bytes_are_those_of_features_and_coordinates() -> None:
    inputs = random_tensor(3, torch.float32, voxels=1500)
    network, profile = profiled("minkvgg16-bn", inputs)
    costs = {layer.name: layer.activation_bytes for layer in profile.layers}
    assert costs["features_0"] == 1500 * (4 * 4 + 16)
    halved = inputs.coordinates.clone()
    halved[:, 1:] = halved[:, 1:].div(2, rounding_mode="floor")
    coarse = len(halved.unique(dim=0))
    assert costs["features_6"] == coarse * (4 * 4 + 16)
    assert costs["pool"] == 4 * 32 * 4
    assert network.layers[-1].name == profile.layers[-1].name
    assert activation_bytes(torch.zeros(4, 5)) == 80


def test_the_input_stays_as_it_was_and_asks_for_no_gradient() -> None:
    inputs = random_tensor(3, torch.float32, voxels=1500)
    before = inputs.features.clone()
    profiled("minkvgg16-bn", inputs)
    assert torch.equal(inputs.features, before)
    assert not inputs.features.requires_grad
    assert inputs.maps.strides == (1,)


def test_a_network_on_one_layer() -> None:
    profile = profile_network(
        Network(nn.Sequential(Convolution(3, 5))),
        random_tensor(3, torch.float32),
        name="final",
        device_kind="cpu",
        repetitions=1,
    )
    assert len(profile.layers) == 1


def test_a_mini_batch_is_made_of_the_first_clouds() -> None:
    split = clouds.load("shapes", points=64).train
    batch = first_mini_batch(split, 3, 0.1)
    assert batch.batch_size == 3
    assert all(len(rows) > 10 for rows in batch.decomposed)
    with pytest.raises(InputError, match="batch size 0"):
        first_mini_batch(split, 0, 0.1)
    with pytest.raises(InputError, match="batch size 4801"):
        first_mini_batch(split, 4801, 0.1)
