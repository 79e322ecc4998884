"""The data of the clients: a data set, spread over them by a Dirichlet distribution."""

from dataclasses import dataclass

import numpy as np

from federated.durations import SPEEDS, SPLIT, draws
from federated.networks import CLASSES
from federated.options import Options, flag
from systems.data import fashion_mnist, mnist_5k
from systems.data.dataset import Data
from systems.data.digits import DIGITS_TRAIN, open_digits
from systems.data.shares import weighted_shares

TRAIN = {"digits": DIGITS_TRAIN, "mnist-5k": mnist_5k.TRAIN, "fashion-mnist": fashion_mnist.TRAIN}
"""The number of training samples of each data set."""


def opened(options: Options) -> Data:
    """The data set; nothing is read yet.

    Raises:
        InputError: it is not here.
    """
    named = f"--{flag('data')} {options.data}"
    ways = {
        "digits": open_digits,
        "mnist-5k": lambda: mnist_5k.open_mnist_5k(named),
        "fashion-mnist": lambda: fashion_mnist.open_fashion_mnist(named),
    }
    data: Data = ways[options.data]()
    return data


@dataclass(frozen=True)
class Shards:
    """Which samples each client has."""

    samples: list[np.ndarray]
    """By client: the numbers of its samples in the training data, int64 [n]."""
    labels: np.ndarray
    """The labels of the training data, int64 [N]."""

    @property
    def mean_samples(self) -> float:
        """The number of samples of the mean client."""
        return float(np.mean([len(own) for own in self.samples]))

    def speed_ranks(self, seed: int) -> list[float]:
        """By client, the share of the clients that are faster, in (0, 1), where speed follows the
        data: clients are sorted by the class that they have most of, and evenly within it."""
        main = [np.bincount(self.labels[own]).argmax() for own in self.samples]
        order = np.lexsort((draws(seed, SPEEDS, 0).random(len(main)), main))
        ranks = np.empty(len(main))
        ranks[order] = (np.arange(len(main)) + 0.5) / len(main)
        return [float(rank) for rank in ranks]


def spread(labels: np.ndarray, options: Options, seed: int) -> Shards:
    """Spread samples over clients. Each draws its mixture of classes from Dirichlet(alpha), and
    then its samples from what the clients before it have left.

    Args:
        labels: int64 [N].
    """
    generator = draws(seed, SPLIT, 0)
    weights = np.exp(options.size_spread * generator.standard_normal(options.clients))
    sizes = weighted_shares(len(labels) - options.clients, list(weights))
    of_class = [generator.permutation(np.flatnonzero(labels == c)) for c in range(CLASSES)]
    left = np.array([len(own) for own in of_class])
    samples = []
    for size in sizes:
        mixture = generator.dirichlet(np.full(CLASSES, options.alpha))
        counts = _counts(mixture, 1 + size, left, generator)
        ends, left = left, left - counts
        samples.append(
            np.concatenate([o[a:b] for o, a, b in zip(of_class, left, ends, strict=True)])
        )
    return Shards(samples, labels)


def _counts(
    mixture: np.ndarray, size: int, left: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """How many samples of each class a client gets: drawn from its mixture, as long as there are
    some left; what a class lacks is drawn from the others."""
    counts = np.zeros_like(left)
    while (missing := size - counts.sum()) > 0:
        rest = left - counts
        chances = np.where(rest > 0, mixture + 1e-9, 0.0)
        counts += np.minimum(generator.multinomial(missing, chances / chances.sum()), rest)
    return counts
