"""The data of the clients: a data set, spread over them by a Dirichlet distribution."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from federated.durations import SPEEDS, SPLIT, draws
from federated.options import RATINGS, Options, flag, wrong
from systems.data import ml_100k
from systems.data.dataset import Data
from systems.data.named import IMAGES, Source
from systems.data.shares import weighted_shares

CLASSES = 10
"""Of the images, all of whose data sets have so many."""
SOURCES: Mapping[str, Source] = {
    **IMAGES,
    RATINGS: Source(ml_100k.open_ml_100k, ml_100k.TRAIN, ml_100k.SHAPE),
}


def opened(options: Options) -> Data:
    """The data set.

    Raises:
        InputError: it is not here, or its users are not as many as the clients.
    """
    named = f"--{flag('data')} {options.data}"
    if options.data == RATINGS and options.clients != (users := ml_100k.user_count(named)):
        said = f"{RATINGS} has {users} users with ratings of their own; give {users}"
        raise wrong("clients", options.clients, said)
    return SOURCES[options.data].open(named)


@dataclass(frozen=True)
class Shards:
    """Which samples each client has."""

    samples: list[np.ndarray]
    """By client: the numbers of its samples in the training data, int64 [n]."""
    labels: np.ndarray
    """The labels of the training data, int64 [N]."""

    def speed_ranks(self, seed: int) -> list[float]:
        """By client, the share of the clients that are faster, in (0, 1), where speed follows the
        data: clients are sorted by the class that they have most of, and evenly within it."""
        main = [np.bincount(self.labels[own]).argmax() for own in self.samples]
        order = np.lexsort((draws(seed, SPEEDS, 0).random(len(main)), main))
        ranks = np.empty(len(main))
        ranks[order] = (np.arange(len(main)) + 0.5) / len(main)
        return [float(rank) for rank in ranks]


def by_user(users: np.ndarray, labels: np.ndarray) -> Shards:
    """Give the client i the samples of the user i.

    Args:
        users, labels: of every sample, int64 [N].
    """
    return Shards([np.flatnonzero(users == user) for user in np.unique(users)], labels)


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
