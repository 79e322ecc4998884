"""The networks hold what torchvision's hold, and trace, run and refuse as documented."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from stanza.cut.separate import separate
from stanza.models import ARCHITECTURES, build_model

# Made from torchvision by make_torchvision_golden.py beside this file.
GOLDEN: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("torchvision_golden.json").read_text()
)["models"]

PUBLISHED_PARAMETERS = {
    "alexnet": 61_100_840,
    "vgg16": 138_357_544,
    "resnet50": 25_557_032,
    "resnet152": 60_192_808,
    "inception-v3": 27_161_264,
    "digits-cnn": 548_746,
    "alexnet-28": 296_218,
    "vgg-28": 181_126,
    "resnet-28": 58_392,
}
SMALL = {"alexnet-28": "alexnet", "vgg-28": "vgg16", "resnet-28": "resnet50"}
"""The small networks, and those for which they stand."""


def build_on_meta(name: str, classes: int | None = None) -> nn.Module:
    """The model without storage: names, shapes and tracing at no cost."""
    with torch.device("meta"):
        return build_model(name, classes)


def meta_images(name: str, samples: int = 2) -> torch.Tensor:
    return torch.empty(samples, *ARCHITECTURES[name].image_shape, device="meta")


def shapes(output: Any) -> Any:
    """The shape of a tensor, or the tuple of shapes of a tuple of tensors."""
    return tuple(map(shapes, output)) if isinstance(output, tuple) else tuple(output.shape)


def test_registry_covers_the_published_models() -> None:
    assert set(ARCHITECTURES) == set(PUBLISHED_PARAMETERS)
    assert set(GOLDEN) == set(ARCHITECTURES) - {"digits-cnn", *SMALL}


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_parameter_count(name: str) -> None:
    counted = sum(parameter.numel() for parameter in build_on_meta(name).parameters())
    assert counted == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize(("small", "real"), SMALL.items())
def test_small_networks_have_the_ratio_of_fc_to_conv_parameters_of_the_real_ones(
    small: str, real: str
) -> None:
    def ratio(name: str) -> float:
        parts = separate(build_on_meta(name), ARCHITECTURES[name].image_shape)
        conv, fc = (sum(p.numel() for p in part.parameters()) for part in (parts.conv, parts.fc))
        return fc / conv

    assert ratio(small) == pytest.approx(ratio(real), rel=0.05)


@pytest.mark.parametrize("name", GOLDEN)
def test_state_dict_is_torchvisions(name: str) -> None:
    state = build_on_meta(name).state_dict()
    lines = [f"{key} {tuple(entry.shape)}" for key, entry in state.items()]
    golden = GOLDEN[name]
    assert golden["parameters"] == PUBLISHED_PARAMETERS[name]
    assert len(lines) == golden["entries"]
    assert lines[:3] == golden["first"]
    assert lines[-3:] == golden["last"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == golden["sha256"]


def test_digits_state_dict() -> None:
    state = build_model("digits-cnn").state_dict()
    assert {name: tuple(entry.shape) for name, entry in state.items()} == {
        "features.0.weight": (32, 1, 3, 3),
        "features.0.bias": (32,),
        "features.2.weight": (64, 32, 3, 3),
        "features.2.bias": (64,),
        "classifier.0.weight": (512, 1024),
        "classifier.0.bias": (512,),
        "classifier.2.weight": (10, 512),
        "classifier.2.bias": (10,),
    }


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_traces_and_gives_logits(name: str, training: bool) -> None:
    model = build_on_meta(name).train(training)
    traced = torch.fx.symbolic_trace(model)
    logits = (2, ARCHITECTURES[name].classes)
    expected = (logits, logits) if name == "inception-v3" and training else logits
    assert shapes(model(meta_images(name))) == expected
    assert shapes(traced(meta_images(name))) == expected
    # A trace holds what it ran: everything, but in evaluation not the auxiliary classifier.
    ran = [key for key in model.state_dict() if training or not key.startswith("AuxLogits.")]
    assert list(traced.state_dict()) == ran


def test_inception_in_training_gives_a_pair() -> None:
    output = build_on_meta("inception-v3", classes=7)(meta_images("inception-v3"))
    assert isinstance(output, tuple)
    assert shapes(output) == ((2, 7), (2, 7))


# The smallest images each network takes, to keep the arithmetic light.
@pytest.mark.parametrize(
    ("name", "image_shape"),
    [
        ("alexnet", (3, 63, 63)),
        ("resnet50", (3, 32, 32)),
        ("inception-v3", (3, 75, 75)),
        ("digits-cnn", (1, 8, 8)),
        ("alexnet-28", (1, 8, 8)),
        ("vgg-28", (1, 8, 8)),
        ("resnet-28", (1, 8, 8)),
    ],
)
def test_evaluation_is_finite_and_repeatable(name: str, image_shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = build_model(name, classes=5).eval()
    traced = torch.fx.symbolic_trace(model)
    images = torch.randn(2, *image_shape)
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (2, 5)
        assert torch.isfinite(logits).all()
        assert logits.std() > 0
        assert torch.equal(logits, model(images))
        assert torch.equal(logits, traced(images))


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "inception-v3"])
def test_dropout_rate(name: str) -> None:
    dropouts = [module for module in build_on_meta(name).modules() if type(module) is nn.Dropout]
    assert dropouts
    assert all(dropout.p == 0.5 for dropout in dropouts)


def test_batch_normalisation_epsilon() -> None:
    def epsilons(name: str) -> set[float]:
        modules = build_on_meta(name).modules()
        return {module.eps for module in modules if isinstance(module, nn.BatchNorm2d)}

    assert epsilons("inception-v3") == {0.001}
    assert epsilons("resnet50") == {0.00001}


def test_digits_learns_in_training_without_randomness() -> None:
    """Two equal runs give equal gradients to every parameter, none of them zero throughout."""

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(1)
        model = build_model("digits-cnn")
        loss = nn.functional.cross_entropy(model(torch.randn(8, 1, 8, 8)), torch.arange(8))
        return list(torch.autograd.grad(loss, list(model.parameters())))

    first, second = gradients(), gradients()
    assert all(gradient.abs().sum() > 0 for gradient in first)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_model("resnet5O"), "resnet5O: unknown model; perhaps 'resnet50'"),
        (lambda: build_model("VGG16"), "VGG16: unknown model; perhaps 'vgg16'"),
        (lambda: build_model("transformer"), "transformer: unknown model; known: alexnet, "),
        (lambda: build_model("digits-cnn", classes=0), "at least 1 class, not 0"),
    ],
)
def test_refuses_with_one_clear_line(call: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        call()
    assert "\n" not in str(raised.value)
