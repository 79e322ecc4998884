"""The networks, and their sizes without torch."""

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

HIDDEN, CHANNELS = 32, (8, 16)
KERNEL = 3
SHAPES = {"digits": (1, 8, 8), "mnist-5k": (1, 28, 28), "fashion-mnist": (1, 28, 28)}
"""Channels, height and width of the images of each data set."""
CLASSES = 10


def parameter_shapes(model: str, data: str) -> list[tuple[int, ...]]:
    """The shapes of a network's parameters: of each layer in turn the weight and the bias."""
    channels, height, width = SHAPES[data]
    weights: list[tuple[int, ...]]
    if model == "cnn":
        first, second = CHANNELS
        left = second * -(-height // 4) * -(-width // 4)
        kernel = (KERNEL, KERNEL)
        weights = [(first, channels, *kernel), (second, first, *kernel), (CLASSES, left)]
    else:
        hidden = [HIDDEN] if model == "mlp" else []
        widths = [prod(SHAPES[data]), *hidden, CLASSES]
        weights = [(rows, columns) for columns, rows in pairwise(widths)]
    return [shape for weight in weights for shape in (weight, weight[:1])]


def parameter_count(model: str, data: str) -> int:
    """P: how many parameters a network has."""
    return sum(map(prod, parameter_shapes(model, data)))


def build(model: str, data: str) -> "nn.Module":
    """The network: images [b, c, h, w] to logits [b, 10]."""
    from torch import nn

    layers: list[nn.Module] = []
    for rows, columns, *kernel in parameter_shapes(model, data)[::2]:
        layers += [nn.ReLU()] if layers else []
        if kernel:
            layers.append(nn.Conv2d(columns, rows, KERNEL, stride=2, padding=1))
        else:
            layers += [nn.Flatten(), nn.Linear(columns, rows)]
    return nn.Sequential(*layers)
