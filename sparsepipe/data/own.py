"""A data set of a user's own, named by import path.

    def clouds(seed: int):          # in clouds.py, named by --sparsepipe.data clouds.py:clouds
        return train, test, ("cat", "dog")

`train` and `test` are sequences: anything with a length, from which a number takes an item. An item
is a `Cloud`, or a tuple of points [N, 3], features [N, F] or None, and a label: a whole number for
the cloud, or [N] for its points (-100 where it is unknown). Threads take items, two at a time. The
names are those of the labels 0, 1, .... What is called may return a `Clouds` as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsepipe.data.cloud import Cloud, make_cloud, whole_numbers
from sparsepipe.data.splits import Clouds
from systems import by_path
from systems.schema import InputError


@dataclass(frozen=True, eq=False)
class SequenceSplit:
    """Clouds that a user's sequence gives."""

    items: Sequence[Any]
    """What the user has given."""
    where: str
    """The option and its value, for errors."""

    def __len__(self) -> int:
        return len(self.items)

    def cloud(self, index: int, epoch: int = 0) -> Cloud:
        """Make cloud number `index`, the same in every epoch unless the user's sequence varies.

        Raises:
            InputError: the item is no cloud.
        """
        item = self.items[index]
        if isinstance(item, Cloud):
            return item
        try:
            points, features, labels = (None if part is None else _array(part) for part in item)
            if points is None or labels is None:
                raise TypeError("the points or the label are None")
            if labels.ndim == 0:
                return make_cloud(points, features, int(whole_numbers("the label", labels)))
            return make_cloud(points, features, -1, labels)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{self.where}: cloud {index}: {error}; give points [N, 3], features [N, F] or "
                "None, and a label"
            ) from None


def _array(values: Any) -> np.ndarray:
    """An array of what a user gives: an array, a list, or a tensor, with or without a gradient."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asanyarray(values)


def own_clouds(name: str, option: str, **known: Any) -> Clouds:
    """The data set that an import path names.

    Args:
        option: the option that holds the path, for errors.
        known: what the user's function may ask for by name.

    Raises:
        InputError: there is no such function, or it returns something else.
    """
    where = f"{option} {name}"
    made = by_path.call(by_path.load(name, option), name, option, **known)
    if isinstance(made, Clouds):
        return made
    try:
        train, test, class_names = made
        splits = SequenceSplit(train, where), SequenceSplit(test, where)
        sizes = [len(split) for split in splits]
    except (TypeError, ValueError):
        raise InputError(
            f"{where}: returns a {type(made).__name__}; give (train, test, class names), of which "
            "the first two are sequences of clouds"
        ) from None
    if not sizes[0]:
        raise InputError(f"{where}: returns no clouds for training; give at least one")
    kind = f"{name} ({sizes[0]:,} train and {sizes[1]:,} test clouds)"
    return Clouds(kind, *splits, tuple(map(str, class_names)))
