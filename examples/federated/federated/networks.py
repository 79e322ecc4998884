"""The networks, and their sizes without torch."""

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

from federated.data import CLASSES, SOURCES
from systems.data import ml_100k

if TYPE_CHECKING:
    from torch import nn

HIDDEN, CHANNELS = 32, (8, 16)
KERNEL = (3, 3)
FACTORS = 8


def parameter_shapes(model: str, data: str) -> list[tuple[int, ...]]:
    """The shapes of a network's parameters: of each layer in turn the weight and the bias."""
    if model == "factors":
        return [(count, 1 + FACTORS) for count in (ml_100k.USERS, ml_100k.FILMS)]
    weights: list[tuple[int, ...]]
    if model == "cnn":
        (channels, height, width), (first, second) = SOURCES[data].shape, CHANNELS
        left = second * -(-height // 4) * -(-width // 4)
        weights = [(first, channels, *KERNEL), (second, first, *KERNEL), (CLASSES, left)]
    else:
        hidden = [HIDDEN] if model == "mlp" else []
        widths = [prod(SOURCES[data].shape), *hidden, CLASSES]
        weights = [(rows, columns) for columns, rows in pairwise(widths)]
    return [shape for weight in weights for shape in (weight, weight[:1])]


def parameter_count(model: str, data: str) -> int:
    """P: how many parameters a network has."""
    return sum(map(prod, parameter_shapes(model, data)))


def build(model: str, data: str) -> "nn.Module":
    """The network: images [b, c, h, w] to logits [b, 10], or pairs [b, 2] to logits [b, 2]."""
    from torch import nn

    from federated.factors import Factors

    if model == "factors":
        return Factors(*parameter_shapes(model, data))
    layers: list[nn.Module] = []
    for rows, columns, *kernel in parameter_shapes(model, data)[::2]:
        layers += [nn.ReLU()] if layers else []
        if kernel:
            layers.append(nn.Conv2d(columns, rows, KERNEL, stride=2, padding=1))
        else:
            layers += [nn.Flatten(), nn.Linear(columns, rows)]
    return nn.Sequential(*layers)
