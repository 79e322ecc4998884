"""Generated shapes that are made once and kept in memory, to be trained on without making samples.

A shape takes a core 1.4 ms to make, and a narrow network no more than that to learn from it. Where
a rank is held to a part of a core, the rank of the first stage would do little else.
"""

from sparsepipe.data.cloud import Cloud
from sparsepipe.data.load import load
from sparsepipe.data.splits import Split

TRAIN, TEST = 256, 48
"""How many clouds are kept."""


def clouds(seed: int, points: int) -> tuple[list[Cloud], list[Cloud], tuple[str, ...]]:
    """Shapes of twelve classes, as `--sparsepipe.data` takes them: clouds to train on and to test
    with, and the names of the classes."""
    shapes = load("shapes", points=points, seed=seed)
    return _kept(shapes.train, TRAIN), _kept(shapes.test, TEST), shapes.class_names


def _kept(split: Split, count: int) -> list[Cloud]:
    """The first clouds of a split, as they are in its first epoch."""
    return [split.cloud(index) for index in range(count)]
