"""The networks, and their sizes without torch."""

from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

HIDDEN, CHANNELS = 32, (8, 16)
KERNEL = 3
SHAPES = {"digits": (1, 8, 8), "mnist-5k": (1, 28, 28), "fashion-mnist": (1, 28, 28)}
"""Channels, height and width of the images of each data set."""
CLASSES = 10


def parameter_shapes(model: str, data: str) -> list[tuple[int, ...]]:
    """The shapes of a network's parameters, in their order."""
    channels, height, width = SHAPES[data]
    pixels = prod(SHAPES[data])
    if model == "linear":
        return [(CLASSES, pixels), (CLASSES,)]
    if model == "mlp":
        return [(HIDDEN, pixels), (HIDDEN,), (CLASSES, HIDDEN), (CLASSES,)]
    first, second = CHANNELS
    left = second * -(-height // 4) * -(-width // 4)
    return [
        (first, channels, KERNEL, KERNEL),
        (first,),
        (second, first, KERNEL, KERNEL),
        (second,),
        (CLASSES, left),
        (CLASSES,),
    ]


def parameter_count(model: str, data: str) -> int:
    """P: how many parameters a network has."""
    return sum(map(prod, parameter_shapes(model, data)))


def build(model: str, data: str) -> "nn.Module":
    """The network: images [b, c, h, w] to logits [b, 10]."""
    from torch import nn

    channels, pixels = SHAPES[data][0], prod(SHAPES[data])
    if model == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(pixels, CLASSES))
    if model == "mlp":
        hidden = nn.Linear(pixels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
        return nn.Sequential(nn.Flatten(), *hidden)
    first, second = CHANNELS
    left = parameter_shapes(model, data)[-2][1]
    strided: dict[str, Any] = {"kernel_size": KERNEL, "stride": 2, "padding": 1}
    return nn.Sequential(
        nn.Conv2d(channels, first, **strided),
        nn.ReLU(),
        nn.Conv2d(first, second, **strided),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(left, CLASSES),
    )
