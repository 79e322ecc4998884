"""The networks to train, and the registry that names them.

They know nothing of parallel execution: every model is a plain `nn.Module` that torch.fx can trace
in training and in evaluation. The ImageNet models have the parameter names and shapes of
torchvision's, so that its checkpoints load. (torchvision itself is not used, because it cannot be
imported beside the CPU build of the pinned torch.)
"""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from systems.schema import InputError, remedy

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to build a network, and the inputs it is published or measured with."""

    build: str
    """What builds the network for a number of classes, as "module:name". It is imported only when a
    network is built, so reading the numbers below needs no torch."""
    image_shape: tuple[int, int, int]
    """Channels, height and width of one image."""
    classes: int
    """The number of classes of the data set that the network is meant for."""
    batch_size: int
    """Samples in a step for each worker: the number with which its profile was measured."""


ARCHITECTURES: dict[str, Architecture] = {
    "alexnet": Architecture(
        build="stanza.models.alexnet:AlexNet",
        image_shape=(3, 224, 224),
        classes=1000,
        batch_size=256,
    ),
    "vgg16": Architecture(
        build="stanza.models.vgg:VGG16", image_shape=(3, 224, 224), classes=1000, batch_size=128
    ),
    "resnet50": Architecture(
        build="stanza.models.resnet:resnet50",
        image_shape=(3, 224, 224),
        classes=1000,
        batch_size=128,
    ),
    "resnet152": Architecture(
        build="stanza.models.resnet:resnet152",
        image_shape=(3, 224, 224),
        classes=1000,
        batch_size=128,
    ),
    "inception-v3": Architecture(
        build="stanza.models.inception:InceptionV3",
        image_shape=(3, 299, 299),
        classes=1000,
        batch_size=128,
    ),
    "digits-cnn": Architecture(
        build="stanza.models.digits:DigitsCNN", image_shape=(1, 8, 8), classes=10, batch_size=32
    ),
}


def build_model(name: str, classes: int | None = None) -> "nn.Module":
    """Build the network called `name` with fresh weights, in training mode.

    It maps images (samples, *image_shape) to logits (samples, classes). Inception-V3 in training
    mode maps them to InceptionOutputs.

    Args:
        classes: None takes the number of the data set that the network is meant for.

    Raises:
        InputError: no network has this name, or `classes` is below 1.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"--stanza.model {name}: unknown model; {remedy(name, ARCHITECTURES)}")
    architecture = ARCHITECTURES[name]
    if classes is None:
        classes = architecture.classes
    if classes < 1:
        raise InputError(f"model {name!r} needs at least 1 class, not {classes}")
    from stanza.models.dry_run import materialise

    module, _, attribute = architecture.build.partition(":")
    model: nn.Module = getattr(importlib.import_module(module), attribute)(classes)
    materialise(model, architecture.image_shape)  # lazy layers get their shapes
    return model
