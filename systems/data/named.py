"""The data sets of images that options name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from systems.data import fashion_mnist, mnist_5k
from systems.data.dataset import Data
from systems.data.digits import DIGITS_SHAPE, DIGITS_TRAIN, open_digits


@dataclass(frozen=True)
class Source:
    """A data set, of which nothing is read yet."""

    open: Callable[[str], Data]
    """Opens it. Takes the option with its value, for errors, and raises an InputError where the
    data are not here."""
    train: int
    """How many samples there are to train with."""
    shape: tuple[int, ...]
    """That of a sample: channels, height and width."""


IMAGES: Mapping[str, Source] = {
    "digits": Source(lambda option: open_digits(), DIGITS_TRAIN, DIGITS_SHAPE),
    "mnist-5k": Source(mnist_5k.open_mnist_5k, mnist_5k.TRAIN, mnist_5k.SHAPE),
    "fashion-mnist": Source(
        fashion_mnist.open_fashion_mnist, fashion_mnist.TRAIN, fashion_mnist.SHAPE
    ),
}
