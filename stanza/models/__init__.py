"""The networks to train, and the registry that names them. A network of one's own is named by its
import path instead (`stanza.models.own`).

Those here know nothing of parallel execution: every model is a plain `nn.Module` that torch.fx can
trace in training and in evaluation. The ImageNet models have the parameter names and shapes of
torchvision's, so that its checkpoints load. (torchvision itself is not used, because it cannot be
imported beside the CPU build of the pinned torch.)
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stanza.models import own
from systems import by_path
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
    "alexnet-28": Architecture(
        build="stanza.models.small:AlexNet28", image_shape=(1, 28, 28), classes=10, batch_size=24
    ),
    "vgg-28": Architecture(
        build="stanza.models.small:VGG28", image_shape=(1, 28, 28), classes=10, batch_size=24
    ),
    "resnet-28": Architecture(
        build="stanza.models.small:ResNet28", image_shape=(1, 28, 28), classes=96, batch_size=24
    ),
}


BATCH_SIZE = 32
"""Samples in a step for each worker, for a network of one's own that does not say."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is known of a network's inputs. None: nobody has said; perhaps the data do."""

    image_shape: tuple[int, ...] | None
    classes: int | None
    batch_size: int


def check_name(name: str) -> None:
    """Refuse a name that is neither a network's here nor an import path. Nothing is imported."""
    if name not in ARCHITECTURES and not by_path.is_path(name):
        raise InputError(
            f"--stanza.model {name}: unknown model; {remedy(name, ARCHITECTURES)}, or one of your "
            "own as path/to/file.py:attribute"
        )


def is_own(name: str) -> bool:
    """Whether a network is the user's own."""
    return name not in ARCHITECTURES


def inputs_of(
    name: str, image_shape: tuple[int, ...] | None = None, classes: int | None = None
) -> Inputs:
    """Find out what the network takes: what is given here, or else what the network itself says.

    Raises:
        InputError: no network has this name, or one's own cannot be imported.
    """
    check_name(name)
    if name in ARCHITECTURES:
        known = ARCHITECTURES[name]
        return Inputs(
            image_shape=image_shape or known.image_shape,
            classes=classes or known.classes,
            batch_size=known.batch_size,
        )
    return Inputs(
        image_shape=image_shape or own.told_shape(name),
        classes=classes or own.told_count(name, "classes"),
        batch_size=own.told_count(name, "batch_size") or BATCH_SIZE,
    )


def build_model(
    name: str, classes: int | None = None, image_shape: Sequence[int] | None = None
) -> "nn.Module":
    """Build the network called `name` with fresh weights, in training mode.

    It maps images (samples, *image_shape) to logits (samples, classes). Inception-V3 in training
    mode maps them to InceptionOutputs, and one's own network to whatever it likes.

    Args:
        classes: None takes the number of the data set that the network is meant for.
        image_shape: None takes the shape that the network is meant for.

    Raises:
        InputError: no network has this name, or `classes` is below 1.
    """
    known = inputs_of(name, tuple(image_shape) if image_shape else None, classes)
    if classes is not None and classes < 1:
        raise InputError(f"model {name!r} needs at least 1 class, not {classes}")
    from stanza.models.dry_run import materialise

    if is_own(name):
        model = own.build(name, known.classes, known.image_shape)
    else:
        module, _, attribute = ARCHITECTURES[name].build.partition(":")
        model = getattr(importlib.import_module(module), attribute)(known.classes)
    if known.image_shape is not None:
        materialise(model, known.image_shape)  # lazy layers get their shapes
    return model
