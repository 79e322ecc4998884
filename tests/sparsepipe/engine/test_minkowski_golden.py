"""Every layer against MinkowskiEngine's outputs and gradients, as the script beside wrote them."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsepipe.engine import layers
from sparsepipe.engine.tensor import SparseTensor
from tests.sparsepipe.golden import read_golden

GOLDEN = Path(__file__).parent / "minkowski_golden.npz"
EQUAL = 1e-12
CHANNELS = (3, 4)


@functools.cache
def golden() -> dict[str, dict[str, Tensor]]:
    """The arrays of every case."""
    return read_golden(GOLDEN)


def sizes(text: str) -> dict[str, Any]:
    """ "k3-stride2" as arguments."""
    names = {"k": "kernel_size", "stride": "stride", "dilation": "dilation"}
    words = [(part.rstrip("0123456789"), part) for part in text.split("-")]
    return {names[name]: int(part.removeprefix(name)) for name, part in words}


def built(case: str) -> list[nn.Module]:
    """The layers of a case."""
    kind, _, rest = case.partition("-")
    if kind == "convolution":
        return [layers.Convolution(*CHANNELS, bias=True, **sizes(rest))]
    if kind == "transpose":
        size = sizes(rest)
        down = layers.Convolution(*CHANNELS, **size)
        return [down, layers.ConvolutionTranspose(*CHANNELS[::-1], **size)]
    if kind in ("max", "average"):
        pooling: Any = layers.MaxPooling if kind == "max" else layers.AveragePooling
        return [pooling(**sizes(rest.removeprefix("pooling-")))]
    if kind == "global":
        cls: Any = layers.GlobalMaxPooling if "max" in rest else layers.GlobalAveragePooling
        return [cls()]
    return [layers.BatchNorm(CHANNELS[0])]


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, over the largest value."""
    return float((ours - theirs).detach().abs().max() / theirs.abs().max())


def rows(coordinates: Tensor) -> Tensor:
    """The order of rows by coordinates."""
    return torch.from_numpy(np.lexsort(coordinates.numpy().T[::-1]))


@pytest.mark.parametrize("case", sorted(golden()))
def test_a_layer_does_what_minkowskiengine_does(case: str) -> None:
    arrays, network = golden()[case], nn.Sequential(*built(case)).double()
    parameters = {name: value for name, value in arrays.items() if name[0].isdigit()}
    weights = {k: v for k, v in parameters.items() if not k.endswith("_gradient")}
    assert weights.keys() == dict(network.named_parameters()).keys()
    network.load_state_dict(weights, strict=False)
    features = arrays["features"].clone().requires_grad_()
    out = network(SparseTensor(features, arrays["coordinates"]))
    ours, theirs = out, arrays["out_features"][rows(arrays["out_coordinates"])]
    if isinstance(out, SparseTensor):
        ours = out.features[rows(out.coordinates)]
    assert error(ours, theirs) < EQUAL
    (ours.pow(3).sum() / 3).backward()
    assert features.grad is not None
    assert error(features.grad, arrays["features_gradient"]) < EQUAL
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert error(parameter.grad, arrays[f"{name}_gradient"]) < EQUAL
