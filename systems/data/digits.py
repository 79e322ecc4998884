"""The handwritten digits that scikit-learn ships: 1,797 real grey images of 8 x 8 pixels."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np

from systems.data.dataset import Batch, Data, TensorSplit

DIGITS, DIGITS_TRAIN = 1797, 1437
DIGITS_SHAPE, DIGITS_CLASSES = (1, 8, 8), 10


def open_digits() -> Data:
    """The digits: 1,437 images to train with and 360 to test with, float32 [N, 1, 8, 8].

    They are read, and torch is imported, when the first batch is asked for.
    """

    @cache
    def parts() -> tuple[Batch, Batch]:
        import torch

        rows = np.loadtxt(_file(), delimiter=",", dtype=np.int64)  # 64 pixels and the label
        images = torch.tensor(rows[:, :-1] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
        labels = torch.tensor(rows[:, -1])
        order = torch.from_numpy(np.random.default_rng(0).permutation(DIGITS))
        train, test = order[:DIGITS_TRAIN], order[DIGITS_TRAIN:]
        # The statistics are those of the training images alone: mean 0.305, deviation 0.376.
        images = (images - images[train].mean()) / images[train].std()
        return (images[train], labels[train]), (images[test], labels[test])

    return Data(
        f"digits ({DIGITS:,} real images, scikit-learn)",
        TensorSplit(DIGITS_TRAIN, lambda: parts()[0]),
        TensorSplit(DIGITS - DIGITS_TRAIN, lambda: parts()[1]),
        DIGITS_SHAPE,
        classes=DIGITS_CLASSES,
    )


def _file() -> Path:
    """The file of the digits in scikit-learn, found without importing it, which takes a second."""
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
