"""A profile from a trace against what made the trace."""

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from systems.profiles.measured_profile import profile_model
from systems.profiles.model_layers import KnownLayer, layers_that_run
from systems.profiles.profile import ModelProfile
from systems.profiles.trace_file import read_trace
from systems.profiles.trace_layers import TracedLayers, find_layers
from systems.profiles.trace_profile import TracedModel, make_profile
from systems.schema import InputError
from tests.systems.profiles import traces
from tests.systems.profiles.traces import step

SHAPE = (4, 3, 12, 12)


class Net(nn.Module):
    """All that may mislead: a branch, an addition, work in place, a layer that runs twice, layers
    registered in another order than they run, a parameter of the model's own in no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 5)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.branch = nn.Conv2d(8, 8, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.stem(images))
        x = self.relu(self.branch(x) + x)
        logits: Tensor = self.head(self.pool(x).flatten(1))
        return logits


def train(model: nn.Module, path: Path, steps: int = 3) -> None:
    """Train for some steps, and write a trace of them."""
    images, labels = torch.randn(SHAPE), torch.randint(0, 5, SHAPE[:1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = nn.CrossEntropyLoss()
    with profile(
        activities=[ProfilerActivity.CPU],
        schedule=schedule(wait=0, warmup=1, active=steps, repeat=1),
        on_trace_ready=lambda done: done.export_chrome_trace(str(path)),
        record_shapes=True,
        with_stack=True,
    ) as profiler:
        for _ in range(steps + 1):
            optimizer.zero_grad()
            loss(model(images), labels).backward()
            optimizer.step()
            profiler.step()


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "trace.json.gz"
    train(Net(), path)
    return path


def known(path: Path, model: nn.Module | None) -> tuple[TracedLayers, ModelProfile]:
    found = find_layers(read_trace(path), path)
    layers = None if model is None else run_on_meta(model)
    told = TracedModel(name="net", device="cpu", batch_size=SHAPE[0], layers=layers)
    return found, make_profile(found, told, path)


def run_on_meta(model: nn.Module) -> list[KnownLayer]:
    return layers_that_run(model, SHAPE, torch.float32, "--model net.py:Net")


def test_a_trace_has_the_layers_and_bytes_that_hooks_find(trace: Path) -> None:
    hooked = profile_model(Net(), torch.randn(SHAPE), name="net", device_kind="cpu", repetitions=1)
    _, read = known(trace, Net())

    def facts(profile: ModelProfile) -> list[object]:
        return [
            (x.name, x.operation, x.activation_bytes, x.parameter_bytes, x.inputs)
            for x in profile.layers
        ]

    assert facts(read) == facts(hooked)
    assert len(read.layers) == 7


def test_without_the_model_the_gradients_tell_the_same_bytes(trace: Path) -> None:
    (_, alone), (_, told) = known(trace, None), known(trace, Net())
    for field in ("activation_bytes", "parameter_bytes", "forward_s", "backward_s"):
        assert [getattr(x, field) for x in alone.layers] == [getattr(x, field) for x in told.layers]
    names = "Conv2d_0 BatchNorm2d_0 ReLU_0 Conv2d_1 ReLU_0 AdaptiveAvgPool2d_0 Linear_0"
    assert [x.name for x in alone.layers] == names.split()
    assert alone.layers[0].operation == "Conv2d"


def test_layers_and_the_rest_are_the_whole_of_every_step(trace: Path) -> None:
    found, read = known(trace, None)
    assert found.step_s.n == 2
    for cost in found.steps:
        assert cost.layers_us + sum(cost.outside_us.values()) == pytest.approx(cost.duration_us)
        assert all(layer.forward_us > 0 and layer.backward_us > 0 for layer in cost.layers)
        assert cost.layers_us < cost.duration_us
    assert {"aten::add", "aten::cross_entropy_loss", "the optimizer"} <= set(found.outside_s)
    both = [cost.layers_us / 1e6 for cost in found.steps]
    assert read.low is not None
    assert read.low * statistics.median(both) == pytest.approx(
        both[0] + (both[1] - both[0]) / 4
        if both[0] < both[1]
        else both[1] + (both[0] - both[1]) / 4
    )


def test_ranges_named_after_modules_find_their_bytes(tmp_path: Path) -> None:
    class Ranged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Sequential(nn.Flatten(), nn.Linear(432, 6)), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            for name, module in self.named_children():
                with record_function(name):
                    x = module(x)
            return x

    path = tmp_path / "trace.json"
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        Ranged()(torch.randn(SHAPE)).sum().backward()
    profiler.export_chrome_trace(str(path))
    _, read = known(path, Ranged())
    facts = [(x.name, x.activation_bytes, x.parameter_bytes) for x in read.layers]
    assert facts == [("stem", 96, (432 * 6 + 6) * 4), ("head", 80, (6 * 5 + 5) * 4)]


def test_times_are_medians_over_steps(tmp_path: Path) -> None:
    events = [*step(1, 9), *step(2, 1), *step(3, 2), *step(4, 4)]
    _, read = known(traces.write(tmp_path / "trace.json", events), None)
    times = [(round(x.forward_s * 1e6, 3), round(x.backward_s * 1e6, 3)) for x in read.layers]
    assert times == [(200, 180), (40, 30), (120, 124)]
    assert (read.low, read.high) == (pytest.approx(0.75), pytest.approx(1.5))
    assert read.source == "trace of torch.profiler trace.json, median of 3 steps"


def small(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


REFUSED: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: small(nn.Conv2d(3, 8, 3)), "layer 2 of trace .* is BatchNorm2d_0, and of the model"),
    (lambda: small(nn.ReLU()), "layer 1 of trace .* is Conv2d_0, and of the model it is ReLU"),
    (lambda: small(nn.Linear(5, 5)), "net.py:Net: does not run on an input of 4x3x12x12"),
    (lambda: small(Net(), nn.Tanh()), "runs 8 layers, and trace .* has 7"),
    (lambda: Net().double(), r"head|stem.0 have 1,792 bytes, and their gradients .* have 896"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_another_model_is_refused(make: Callable[[], nn.Module], words: str, trace: Path) -> None:
    with pytest.raises(InputError, match=words):
        known(trace, make())


def test_what_the_trace_does_not_tell_is_refused_without_the_model(tmp_path: Path) -> None:
    path = traces.write(tmp_path / "trace.json", step(1, shapes=False))
    with pytest.raises(InputError, match=r"Conv2d_0 has no backward pass whose .*--model"):
        known(path, None)
    functional = [event for event in step(1) if "Conv2d_0" not in event["name"]]
    path = traces.write(tmp_path / "trace.json", functional)
    with pytest.raises(InputError, match=r"672 bytes of parameters belong to no layer; .*--model"):
        known(path, None)
