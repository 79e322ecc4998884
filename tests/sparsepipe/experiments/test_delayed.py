"""Delayed, stashed updates: against a hand-written loop, a recurrence on paper, and 1F1B itself."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.experiments.delayed import Delayed
from sparsepipe.models import MinkUNet, MinkVGG16
from sparsepipe.runtime.network import Network
from sparsepipe.runtime.values import (
    Value,
    as_leaves,
    backward_through,
    features_of,
    leaf_gradients,
)
from tests.sparsepipe.clouds import random_tensor

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
Batch = tuple[SparseTensor, Tensor]


class Scale(nn.Module):
    """y = w x, w = 1 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        return (self.weight * inputs,)


def batches(count: int) -> list[Batch]:
    """Of very different sizes, and the fourth nearly empty."""
    sizes = [120, 40, 300, 3, 200, 80, 5, 150]
    return [
        (random_tensor(3, voxels=sizes[i % 8], seed=i), torch.tensor(0.1 * i)) for i in range(count)
    ]


def loss_of(output: Value, targets: Tensor) -> Tensor:
    rows = features_of(output)
    return F.mse_loss(rows, targets.to(rows.dtype).expand_as(rows))


def network(kind: str = "unet") -> nn.Module:
    torch.manual_seed(6)
    if kind == "vgg":
        return MinkVGG16(3, 5, width=1 / 32).double().eval()
    return MinkUNet(3, 5, depth=14, width=1 / 16).double().eval()


def test_two_stages_follow_the_recurrence_on_paper() -> None:
    """Loss a b x: the gradient of a is b x, that of b is a x, a as mini-batch t saw it."""
    stages = [Scale(), Scale()]
    pipeline = Delayed(
        stages, partial(torch.optim.SGD, lr=0.1), lambda output, _: features_of(output)
    )
    a, b = [1.0], [1.0]
    for t, x in enumerate([1.0, 2.0, -1.0, 3.0, 0.5]):
        seen = a[max(0, t - 1)]
        loss = pipeline.step(torch.tensor(x, dtype=torch.float64), torch.zeros(()))
        assert loss == pytest.approx(seen * b[t] * x, rel=1e-12)
        a.append(a[t] - 0.1 * b[t] * x)
        b.append(b[t] - 0.1 * seen * x)
        assert [float(stage.weight.detach()) for stage in stages] == pytest.approx([a[-1], b[-1]])


class Pipelined:
    """1F1B played event by event on one stage after the other: no version is computed, weights are
    simply those that the stage has when its forward comes up."""

    def __init__(self, stages: Sequence[nn.Module], data_: Sequence[Batch]) -> None:
        self.stages, self.batches = stages, data_
        self.optimizers = [SGD(stage.parameters()) for stage in stages]
        depth, count = len(stages), len(data_)
        self.todo = [one_forward_one_backward(depth - s, count) for s in range(depth)]
        self.forwards: dict[tuple[int, int], Any] = {}
        self.returned: dict[tuple[int, int], list[Tensor | None]] = {}
        self.losses = [0.0] * count

    def run(self) -> None:
        while any(self.todo):
            ready = [s for s, steps in enumerate(self.todo) if steps and self._ready(s, *steps[0])]
            stage = ready[-1]
            kind, t = self.todo[stage].pop(0)
            (self._forward if kind == "forward" else self._backward)(stage, t)

    def _ready(self, s: int, kind: str, t: int) -> bool:
        if kind == "forward":
            return s == 0 or (s - 1, t) in self.forwards
        return s == len(self.stages) - 1 or (s, t) in self.returned

    def _forward(self, s: int, t: int) -> None:
        inputs, targets = self.batches[t]
        values = as_leaves(self.forwards[s - 1, t][2]) if s else (inputs,)
        stashed = copy.deepcopy(self.stages[s])
        outputs = stashed(*values)
        self.forwards[s, t] = stashed, values, outputs
        if s == len(self.stages) - 1:
            loss = loss_of(outputs[0], targets)
            self.losses[t] = float(loss.detach())
            self.forwards[s, t] = stashed, values, (loss,)
            self.returned[s, t] = [torch.ones_like(loss)]

    def _backward(self, s: int, t: int) -> None:
        stashed, values, outputs = self.forwards[s, t]
        backward_through(outputs, self.returned[s, t])
        if s:
            self.returned[s - 1, t] = [features_of(gradient) for gradient in leaf_gradients(values)]
        for newest, used in zip(self.stages[s].parameters(), stashed.parameters(), strict=True):
            newest.grad = used.grad
        self.optimizers[s].step()


def one_forward_one_backward(warm_up: int, count: int) -> list[tuple[str, int]]:
    """`warm_up` forwards, then a backward and a forward in turn, then the backwards left."""
    steps = [("forward", t) for t in range(min(warm_up, count))]
    for t in range(count):
        steps.append(("backward", t))
        if t + warm_up < count:
            steps.append(("forward", t + warm_up))
    return steps


@pytest.mark.parametrize(
    ("kind", "cuts"), [("unet", [40]), ("unet", [20, 55, 90]), ("vgg", [10, 25]), ("vgg", [])]
)
def test_the_simulation_is_what_1f1b_computes(kind: str, cuts: list[int]) -> None:
    model, data_ = network(kind), batches(8)
    played = Pipelined(Network(copy.deepcopy(model)).stages(cuts), data_)
    played.run()
    stages = Network(model).stages(cuts)
    simulated = Delayed(stages, SGD, loss_of)
    losses = [simulated.step(*batch) for batch in data_]
    assert losses == pytest.approx(played.losses, rel=1e-12)
    for ours, theirs in zip(stages, played.stages, strict=True):
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(
                parameter, theirs.get_parameter(name), rtol=1e-10, atol=1e-12
            )


@pytest.mark.parametrize("cuts", [[], [30], [20, 60, 80]])
def test_steps_without_lag_are_plain_training(cuts: list[int]) -> None:
    model = network()
    plain = copy.deepcopy(model)
    stages = Network(model).stages(cuts)
    pipeline = Delayed(stages, SGD, loss_of, lags=[0] * len(stages))
    optimizer = SGD(plain.parameters())
    for inputs, targets in batches(4):
        optimizer.zero_grad()
        loss = loss_of(plain(inputs), targets)
        loss.backward()
        optimizer.step()
        assert pipeline.step(inputs, targets) == pytest.approx(float(loss.detach()), rel=1e-12)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_delays_change_the_course_and_one_stage_has_none() -> None:
    losses = {}
    for name, cuts, lags in (("plain", [50], [0, 0]), ("one", [], None), ("two", [50], None)):
        pipeline = Delayed(Network(network()).stages(cuts), SGD, loss_of, lags)
        losses[name] = [pipeline.step(*batch) for batch in batches(5)]
    assert losses["one"] == pytest.approx(losses["plain"], rel=1e-12)
    assert losses["two"][0] == pytest.approx(losses["plain"][0])
    assert losses["two"][2:] != pytest.approx(losses["plain"][2:], rel=1e-6)


def test_a_stage_without_parameters_is_no_obstacle() -> None:
    names = [layer.name for layer in Network(network("vgg")).layers]
    pool = names.index("pool")
    pipeline = Delayed(Network(network("vgg")).stages([pool, pool + 1]), SGD, loss_of)
    assert all(pipeline.step(*batch) >= 0 for batch in batches(3))


def test_running_statistics_follow_the_forward_passes() -> None:
    model = network("vgg").train()
    pipeline = Delayed(Network(model).stages([26]), SGD, loss_of)
    clouds = random_tensor(3, voxels=1500)
    before = copy.deepcopy(model.state_dict())
    pipeline.step(clouds, torch.zeros(()))
    pipeline.step(clouds, torch.zeros(()))
    name = "features.1.bn.num_batches_tracked"
    assert int(model.state_dict()[name]) == int(before[name]) + 2
