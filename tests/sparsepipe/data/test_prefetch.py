"""Reading ahead: order, bounds, errors, and that nothing runs on after closing."""

import itertools
import threading
import time

import numpy as np
import pytest

from sparsepipe.data.cloud import Cloud, make_cloud
from sparsepipe.data.load import load
from sparsepipe.data.prefetch import in_order, prefetch, shuffled
from systems.schema import InputError


class Numbers:
    """Clouds whose label says index and epoch; slow ones at random, one broken."""

    def __init__(self, broken: int = -1) -> None:
        self.broken = broken
        self.made: list[int] = []

    def __len__(self) -> int:
        return 40

    def cloud(self, index: int, epoch: int = 0) -> Cloud:
        time.sleep(0.001 * (index * 7 % 3))
        if index == self.broken:
            raise InputError(f"cloud {index} is broken")
        self.made.append(index)
        return make_cloud(np.zeros((1, 3)), None, 100 * epoch + index)


def labels(clouds: list[Cloud]) -> list[int]:
    return [cloud.label for cloud in clouds]


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("ahead", [1, 3, 50])
def test_order(workers: int, ahead: int) -> None:
    batches = list(prefetch(Numbers(), in_order(40, 6), labels, workers=workers, ahead=ahead))
    assert list(itertools.chain(*batches)) == list(range(40))
    assert [len(batch) for batch in batches] == [6] * 6 + [4]
    assert not threads()


def test_results_do_not_depend_on_workers() -> None:
    split = load("shapes", points=64).train

    def first(workers: int) -> list[np.ndarray]:
        batches = prefetch(
            split,
            shuffled(len(split), 4, seed=1),
            lambda clouds: np.concatenate([cloud.points for cloud in clouds]),
            workers=workers,
        )
        return list(itertools.islice(batches, 6))

    for one, three in zip(first(1), first(3), strict=True):
        assert np.array_equal(one, three)


def test_epochs_are_permutations() -> None:
    steps = list(itertools.islice(shuffled(10, 3, seed=0), 9))
    assert [epoch for epoch, _ in steps] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for epoch in range(3):
        seen = [i for e, indices in steps for i in indices if e == epoch]
        assert len(set(seen)) == 9
    assert steps[:3] != steps[3:6]
    resumed = list(itertools.islice(shuffled(10, 3, seed=0, epoch=1), 6))
    assert resumed == steps[3:]


def test_epochs_reach_the_clouds() -> None:
    batches = prefetch(Numbers(), [(0, [1, 2]), (3, [1, 2])], labels)
    assert list(batches) == [[1, 2], [301, 302]]


def test_errors_are_raised_where_they_are_due() -> None:
    batches = prefetch(Numbers(broken=13), in_order(40, 6), labels, workers=3, ahead=5)
    assert next(batches) == list(range(6))
    assert next(batches) == list(range(6, 12))
    with pytest.raises(InputError, match="cloud 13 is broken"):
        next(batches)
    assert not threads()


def test_errors_of_the_transform() -> None:
    def transform(clouds: list[Cloud]) -> int:
        return 1 // clouds[0].label

    batches = prefetch(Numbers(), [(0, [1]), (0, [0])], transform)
    assert next(batches) == 1
    with pytest.raises(ZeroDivisionError):
        next(batches)


def test_no_more_than_ahead() -> None:
    split = Numbers()
    batches = prefetch(split, ((0, [i]) for i in range(40)), labels, workers=4, ahead=3)
    next(batches)
    time.sleep(0.1)  # plenty for all, were there no bound
    assert len(split.made) <= 4
    batches.close()


@pytest.mark.parametrize("end", ["close", "drop", "before the first"])
def test_closing_ends_the_threads(end: str) -> None:
    split = Numbers()
    batches = prefetch(split, shuffled(40, 8, seed=0), labels, workers=3, ahead=20)
    if end != "before the first":
        next(batches)
    if end == "drop":
        del batches
    else:
        batches.close()
    assert not threads()
    made = len(split.made)
    time.sleep(0.02)
    assert len(split.made) == made


@pytest.mark.parametrize(("workers", "ahead"), [(0, 1), (1, 0)])
def test_bad_bounds(workers: int, ahead: int) -> None:
    with pytest.raises(InputError, match="give 1 or more"):
        prefetch(Numbers(), in_order(40, 6), labels, workers=workers, ahead=ahead)


@pytest.mark.parametrize("size", [0, 41])
def test_bad_batches(size: int) -> None:
    with pytest.raises(InputError, match=f"mini-batch of {size} clouds: give 1 to 40"):
        shuffled(40, size, seed=0)
