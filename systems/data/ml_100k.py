"""MovieLens 100K: what 943 people think of 1,682 films, and whether they will like others.

Its 100,000 ratings (GroupLens, for research and not for resale) come with the package recbole,
whose file is read in place: its pins, and what importing it imports, are not needed (`pip install
--no-deps recbole`). A sample is a user and a film; its class is 1 if the user liked it, with 4
stars or 5.
"""

from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from systems.data.dataset import Batch, Data, TensorSplit
from systems.schema import InputError

USERS, FILMS = 943, 1682
SHAPE, CLASSES, LIKED = (2,), 2, 4
TRAIN = 80_367
"""The ratings to train with."""
TESTED = 5
"""The last of each user's ratings are for testing: a fifth, rounded down."""
PLACE = "recbole/dataset_example/ml-100k/ml-100k.inter"
HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


def file() -> Path | None:
    """The file in recbole, found without importing it; None if the package is not installed."""
    try:
        path = Path(str(distribution("recbole").locate_file(PLACE)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def open_ml_100k(option: str) -> Data:
    """The ratings: pairs of a user and a film, int64 [N, 2], both counted from 0, and classes.

    A user's ratings are in the order of their time. The first of them are to train with, and a
    fifth of them, the last ones, to test with.

    Args:
        option: the option with its value, for errors.

    Raises:
        InputError: recbole is not installed, or its file is another.
    """
    train, test = _split(_found(option))
    kind = f"MovieLens 100K ({len(train) + len(test):,} real ratings, recbole)"
    return Data(kind, _pairs(train), _pairs(test), SHAPE, CLASSES)


def user_count(option: str) -> int:
    """How many users have rated something; see `open_ml_100k`."""
    return len(np.unique(_split(_found(option))[0][:, 0]))


def _found(option: str) -> Path:
    path = file()
    if path is None:
        raise InputError(
            f"{option}: the ratings come with the package recbole, which is not installed; "
            "pip install --no-deps recbole, or give other data: digits"
        )
    return path


def _pairs(rows: np.ndarray) -> TensorSplit:
    """The samples of ratings: user, film, stars."""

    def make() -> Batch:
        import torch

        return torch.from_numpy(rows[:, :2].copy()), torch.from_numpy((rows[:, 2] >= LIKED) + 0)

    return TensorSplit(len(rows), make)


@cache
def _split(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read user, film and stars, int64 [N, 3], to train with and to test with."""
    try:
        with path.open() as lines:
            header = next(lines, "").strip()
            rows = np.loadtxt(lines, delimiter="\t", ndmin=2).astype(np.int64)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}; install recbole again") from None
    most = [USERS, FILMS, 5]
    if header != HEADER or not ((rows[:, :3] >= 1) & (rows[:, :3] <= most)).all():
        raise InputError(f"{path}: are no ratings of MovieLens 100K; get another recbole")
    users, films, _, times = rows.T
    rows = rows[np.lexsort((films, times, users)), :3] - np.array([1, 1, 0])
    _, first, count = np.unique(rows[:, 0], return_index=True, return_counts=True)
    place = np.arange(len(rows)) - np.repeat(first, count)
    tested = place >= np.repeat(count - count // TESTED, count)
    return rows[~tested], rows[tested]
