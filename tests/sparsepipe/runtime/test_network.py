"""Layers of a network and its stages: they are the network, however it is cut."""

import copy
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsepipe.engine import layers as sp
from sparsepipe.engine.kernel_map import Kernel
from sparsepipe.engine.pooling import average_pool
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models import DENSE, MinkUNet, MinkVGG16
from sparsepipe.planner import plan
from sparsepipe.runtime.network import Network
from sparsepipe.runtime.values import join_samples, take_samples
from sparsepipe.train.profiling import profile_network
from systems.clusters import cluster
from systems.profiles.graph_file import read_graph
from systems.schema import InputError
from tests.sparsepipe.clouds import random_tensor
from tests.sparsepipe.own_network import OwnUNet

DATA = os.environ.get("TESTBED_DATA")
NETWORKS = {
    "vgg": lambda **options: MinkVGG16(2, 5, width=1 / 32, **options),
    "unet": lambda **options: MinkUNet(2, 5, depth=14, width=1 / 16, **options),
}


def network_and_input(name: str, kit: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(1)
    if kit == "dense":
        inputs: Any = torch.randn(2, 2, 32, 32, 32)
        return NETWORKS[name](kit=DENSE).eval(), inputs
    return NETWORKS[name]().double().eval(), random_tensor(2)


def rows(value: Any) -> Tensor:
    return value.features if isinstance(value, SparseTensor) else value


@pytest.mark.parametrize("kit", ["sparse", "dense"])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_stage_for_each_layer_gives_what_the_network_gives(name: str, kit: str) -> None:
    model, inputs = network_and_input(name, kit)
    network = Network(model)
    values: tuple[Any, ...] = (inputs,)
    for stage in network.stages(range(1, len(network.layers))):
        assert len(values) == len(stage.inputs)
        values = stage(*values)
    (output,) = values
    assert torch.equal(rows(output), rows(model(inputs)))


@pytest.mark.parametrize("kit", ["sparse", "dense"])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_are_in_one_order_on_both_sides_of_every_cut(name: str, kit: str) -> None:
    network = Network(network_and_input(name, kit)[0])
    middle = len(network.layers)
    for cut in range(1, middle):
        before, after = network.stages([cut])
        assert before.outputs == after.inputs == network.crossing(cut)
        made = {layer.name for layer in network.layers[:cut]}
        read = {name for layer in network.layers[cut:] for name in layer.inputs}
        assert set(network.crossing(cut)) == made & read


def test_layers_are_in_topological_order_and_distinct() -> None:
    layers = Network(NETWORKS["unet"]()).layers
    names = [layer.name for layer in layers]
    assert len(set(names)) == len(names)
    for number, layer in enumerate(layers):
        assert set(layer.inputs) <= set(names[:number])
    kinds = [layer.operation.partition("(")[0] for layer in layers]
    assert (kinds.count("cat"), kinds.count("add")) == (4, 8)


def test_skips_cross_every_cut_up_to_where_they_are_read() -> None:
    network = Network(NETWORKS["unet"]())
    names = [layer.name for layer in network.layers]
    crossing = network.crossing(names.index("convtr4p16s2"))
    assert crossing == (
        "relu",
        "block1_0_relu_1",
        "block2_0_relu_1",
        "block3_0_relu_1",
        "block4_0_relu_1",
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dicts_of_stages_join_to_that_of_the_network(name: str) -> None:
    model = NETWORKS[name]()
    network = Network(model)
    joined: dict[str, Tensor] = {}
    for stage in network.stages([7, 20, 33]):
        state = stage.state_dict()
        assert not joined.keys() & state.keys()
        joined |= state
    whole = model.state_dict()
    assert joined.keys() == whole.keys()
    assert all(joined[key].data_ptr() == value.data_ptr() for key, value in whole.items())


def test_training_and_evaluation_are_modes_of_a_stage() -> None:
    model, inputs = network_and_input("vgg", "sparse")
    first, last = Network(model.train()).stages([20])
    before = model.state_dict()["features.1.bn.running_mean"].clone()
    F.mse_loss(last(*first(inputs))[0].features, torch.zeros(4, 5, dtype=torch.float64)).backward()
    assert all(parameter.grad is not None for parameter in first.parameters())
    assert not torch.equal(before, model.state_dict()["features.1.bn.running_mean"])
    assert not any(module.training for module in copy.deepcopy(first).eval().modules())


@pytest.mark.parametrize("kit", ["sparse", "dense"])
@pytest.mark.skipif(DATA is None, reason="TESTBED_DATA is not set")
def test_layer_i_is_layer_i_of_the_authors_profile(kit: str) -> None:
    path = Path(str(DATA)) / "profiles" / "minkvgg_v0.02_b128_RTX.graph.txt"
    profile = read_graph(
        path.read_text(), name="minkvgg", device_kind="RTX", batch_size=128, source="authors"
    )
    model = MinkVGG16(1, 40, kit=DENSE) if kit == "dense" else MinkVGG16(1, 40)
    ours = Network(model).layers
    assert len(ours) == len(profile.layers) == 52
    for layer, theirs in zip(ours, profile.layers, strict=True):
        assert layer.parameter_bytes == theirs.parameter_bytes
        if kit == "sparse":
            kind = theirs.operation.partition("(")[0].removeprefix("Minkowski")
            assert layer.operation.partition("(")[0] == kind
    for before, after in pairwise(ours):
        assert after.inputs == (before.name,)


@pytest.fixture
def own() -> nn.Module:
    torch.manual_seed(1)
    return OwnUNet().double().eval()


def test_a_users_network_has_layers_that_give_what_it_gives(own: nn.Module) -> None:
    network, inputs = Network(own), random_tensor(2)
    values: tuple[Any, ...] = (inputs,)
    for stage in network.stages(range(1, len(network.layers))):
        values = stage(*values)
        assert all(isinstance(value, SparseTensor) for value in values)
    assert torch.equal(rows(values[0]), rows(own(inputs)))
    operations = [layer.operation for layer in network.layers]
    assert (operations.count("cat"), operations.count("add")) == (2, 1)
    (gated,) = [layer for layer in network.layers if ", replace" in layer.operation]
    assert gated.operation.startswith("features, relu, Linear(")
    assert gated.parameter_bytes == (4 * 4 + 4) * 8
    assert gated.inputs == ("decode0_2",)


def test_samples_of_a_users_network_can_be_taken_apart_at_every_cut(own: nn.Module) -> None:
    """As the replicas of two stages do it, each in their own way."""
    network, inputs = Network(own), random_tensor(2)
    expected = rows(own(inputs))
    for cut in range(1, len(network.layers)):
        head, tail = network.stages([cut])
        parts = [head(*take_samples((inputs,), part)) for part in (range(1), range(1, 4))]
        crossing = join_samples(parts)
        outputs = [tail(*take_samples(crossing, part)) for part in (range(3), range(3, 4))]
        assert torch.allclose(rows(join_samples(outputs)[0]), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_users_network_of_any_type_has_a_profile_and_a_plan(dtype: torch.dtype) -> None:
    network, inputs = Network(OwnUNet().to(dtype)), random_tensor(2, dtype)
    profile = profile_network(network, inputs, name="own", device_kind="cpu", repetitions=1)
    assert [layer.name for layer in profile.layers] == [layer.name for layer in network.layers]
    assert profile.layers[0].activation_bytes == len(inputs) * (4 * dtype.itemsize + 16)
    assert profile.layers[0].parameter_bytes == 27 * 2 * 4 * dtype.itemsize
    profiles = {kind: replace(profile, device=kind) for kind in ("TitanV", "TitanXp")}
    stages = plan.partition(profiles, cluster.load("titan-8")).stages
    assert [stage.first for stage in stages] == [0, *(stage.end for stage in stages[:-1])]
    assert stages[-1].end == len(network.layers)


class Excitation(nn.Module):
    """Sparse tensors and parts of them meet; a function on features and a kernel map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = sp.Convolution(2, 4), sp.Convolution(4, 3)

    def forward(self, x: Any) -> Any:
        y = self.first(x)
        smooth = average_pool(y.features, y.maps.kernel_map(Kernel(3, 1, 1, 1)))
        return self.last(y.replace(smooth)).features


def test_functions_on_features_are_recorded_with_their_gradients() -> None:
    torch.manual_seed(1)
    model, inputs = Excitation().double(), random_tensor(2)
    network = Network(model)
    operations = [layer.operation.partition("(")[0] for layer in network.layers]
    pooled = "maps, Kernel, kernel_map, features, average_pool, replace"
    assert operations == ["Convolution", pooled, "Convolution", "features"]
    first, last = network.stages([2])
    (output,) = last(*first(inputs))
    assert torch.equal(output, model(inputs))
    parameters = list(model.parameters())
    ours = torch.autograd.grad(output.square().sum(), parameters)
    theirs = torch.autograd.grad(model(inputs).square().sum(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


class Interpolated(nn.Module):
    """Features between voxels become those of the voxels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = sp.Convolution(2, 4), sp.Convolution(4, 3)
        self.between = sp.Interpolation()

    def forward(self, x: Any) -> Any:
        y = self.first(x)
        return self.last(y.replace(self.between(y, y.coordinates.double() + 0.25)))


class Minkowskis(nn.Module):
    """Functions of features as programs for MinkowskiEngine write them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (sp.Convolution(c, 4) for c in (2, 4, 4))

    def forward(self, x: Any) -> Any:
        for layer in (self.first, self.middle):
            skip, y = x, layer(x)
            x = SparseTensor(F.relu(y.features), None, y.tensor_stride, maps=y.maps)
        x = self.last(x) + x
        return x.replace(torch.cat([x.features, skip.features], 1))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Interpolated, ["Convolution", "coordinates", "Convolution"]),
        (
            Minkowskis,
            [
                "Convolution",
                "features",
                "Convolution",
                "features",
                "Convolution",
                "add",
                "features",
            ],
        ),
    ],
)
def test_sparse_tensors_alone_cross_where_they_are_made_of_parts(
    make: type[nn.Module], expected: list[str]
) -> None:
    torch.manual_seed(1)
    model, inputs = make().double(), random_tensor(2)
    network = Network(model)
    kinds = [layer.operation.partition("(")[0].partition(",")[0] for layer in network.layers]
    assert kinds == expected
    for cut in range(1, len(network.layers)):
        head, tail = network.stages([cut])
        values = head(*take_samples((inputs,), range(4)))
        assert all(isinstance(value, SparseTensor) for value in values)
        assert torch.allclose(rows(tail(*values)[0]), rows(model(inputs)), rtol=1e-12, atol=1e-12)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(self.layer(inputs))


class Branching(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs if inputs.sum() > 0 else -inputs


class TwoInputs(nn.Module):
    def forward(self, first: Tensor, second: Tensor, third: Tensor | None = None) -> Tensor:
        return first + second


class KeywordOnly(nn.Module):
    def forward(self, first: Tensor, *, second: Tensor) -> Tensor:
        return first + second


class TwoOutputs(nn.Module):
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs + 1, inputs + 2


class Loose(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.scale


class Optional(nn.Module):
    def forward(self, inputs: Tensor, *more: Tensor, **options: Any) -> Tensor:
        return inputs + len(more) + len(options)


def test_optional_arguments_keep_their_defaults() -> None:
    (stage,) = Network(Optional()).stages([])
    assert stage(torch.ones(2))[0].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (Shared(), "share parameters"),
        (Branching(), "torch.fx: symbolically traced variables"),
        (TwoInputs(), r"needs 2 values \(first, second\): give a network of one input"),
        (KeywordOnly(), r"needs 2 values \(first, second\)"),
        (TwoOutputs(), "returns several values"),
        (Loose(), "reads scale outside any layer"),
    ],
)
def test_a_network_that_cannot_be_cut_is_refused_in_one_line(
    model: nn.Module, problem: str
) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        Network(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("first", "end"), [(3, 3), (5, 3), (-1, 3), (0, 53)])
def test_a_stage_without_layers_is_refused(first: int, end: int) -> None:
    network = Network(NETWORKS["vgg"]())
    with pytest.raises(InputError, match="give 0 <= first < end <= 52"):
        network.stage(first, end)
