"""Measuring a profile: layers, bytes and what it takes; the model stays as it was."""

import weakref
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from systems import measure
from systems.measure import Spread
from systems.profiles.measured_profile import LAYER_COPIES, Effort, effort, profile_model
from systems.profiles.profile import ModelProfile

BATCH, SIDE = 4, 24


def network() -> nn.Sequential:
    torch.manual_seed(0)
    flat = 8 * SIDE * SIDE
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 8, kernel_size=3, padding=1),
            norm=nn.BatchNorm2d(8),
            relu=nn.ReLU(inplace=True),
            flat=nn.Flatten(),
            head=nn.Sequential(nn.Linear(flat, 64, bias=False), nn.ReLU(inplace=True)),
        )
    )


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def measured(module: nn.Module, images: Tensor) -> ModelProfile:
    return profile_model(module, images, name="cnn", device_kind="cpu", repetitions=2)


def test_measured_layers_are_those_of_the_model_in_order(images: Tensor) -> None:
    result = measured(network(), images)
    names = ["conv", "norm", "relu", "flat", "head.0", "head.1"]
    assert [each.name for each in result.layers] == names
    assert [each.inputs for each in result.layers] == [(), *((name,) for name in names[:-1])]
    assert result.layers[4].operation.startswith("Linear(in_features=4608, out_features=64")
    assert (result.name, result.device, result.batch_size) == ("cnn", "cpu", BATCH)


def test_measured_bytes_are_exact(images: Tensor) -> None:
    layers = measured(network(), images).layers
    map_bytes = BATCH * 8 * SIDE * SIDE * 4
    head_bytes = BATCH * 64 * 4
    assert [each.activation_bytes for each in layers] == [map_bytes] * 4 + [head_bytes] * 2
    parameters = [8 * 3 * 3 * 3 + 8, 16, 0, 0, 8 * SIDE * SIDE * 64, 0]
    assert [each.parameter_bytes for each in layers] == [4 * n for n in parameters]


def test_measured_times_are_positive(images: Tensor) -> None:
    result = measured(network(), images)
    for each in result.layers:
        assert each.forward_s >= 0
        assert each.backward_s > 0
    assert result.layers[0].forward_s > 0
    assert result.forward_s > 0


def test_threads_and_spread_are_in_the_profile(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every layer of this machine takes 4 s, and 2 s and 6 s at the quartiles; 4 s are a copy."""
    spread = Spread(median=4.0, low=2.0, high=6.0, n=3)
    monkeypatch.setattr(measure, "timed", lambda *_, **__: spread)
    result = measured(nn.Sequential(nn.Conv2d(3, 8, 3)), images)
    assert (result.forward_s, result.backward_s) == (0.0, 4.0)
    assert result.threads == torch.get_num_threads()
    assert (result.low, result.high) == (2 / 4, (2 + 6) / 4)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_model_as_it_was(training: bool, images: Tensor) -> None:
    module = network().train(training)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    copy = images.clone()
    measured(module, images)
    assert module.training is training
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(not leaf._forward_pre_hooks for leaf in module.modules())
    assert torch.equal(images, copy)
    assert not images.requires_grad


def test_a_layer_that_runs_twice_is_two_layers() -> None:
    shared = nn.Linear(6, 6)
    result = measured(nn.Sequential(shared, nn.Tanh(), shared), torch.randn(2, 6))
    assert [each.operation.split("(")[0] for each in result.layers] == ["Linear", "Tanh", "Linear"]


def test_whole_numbers_may_go_in() -> None:
    module = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
    result = measured(module, torch.randint(10, (3, 5)))
    assert [each.activation_bytes for each in result.layers] == [3 * 5 * 4 * 4, 3 * 5 * 2 * 4]
    assert all(each.backward_s > 0 for each in result.layers)


def test_the_effort_of_a_measurement_is_estimated() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    estimated = effort(model, torch.randn(10, 4), repetitions=3)
    assert model[1].num_batches_tracked == 0  # as it was
    # The largest layer reads and writes 8 values of 4 bytes for each of 10 samples; 40 weights and
    # biases of the linear layer and 16 of the normalisation have gradients.
    assert estimated.memory_bytes == LAYER_COPIES * 10 * 16 * 4 + 2 * 56 * 4
    assert estimated.seconds > 0
    assert str(Effort(seconds=1200, memory_bytes=14.2e9)) == "20 minutes and 14.2 GB of memory"
    assert str(Effort(seconds=0.2, memory_bytes=1e3)) == "1 s and 0.1 GB of memory"


def test_one_layers_inputs_are_kept_at_a_time() -> None:
    alive: list[int] = []
    copies: weakref.WeakSet[Tensor] = weakref.WeakSet()

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad or x.grad_fn is not None:  # this is a measurement
                copies.add(x)
            alive.append(len(copies))
            return x * 1

    model = nn.Sequential(*(Watching() for _ in range(6)))
    profile_model(model, torch.randn(2, 3), name="six", device_kind="cpu", repetitions=1)
    assert max(alive) <= 2
