"""Which samples a step uses, and who reads them."""

import itertools

import pytest
import torch
from hypothesis import given, strategies as st

from systems.data.batches import global_batch, share


@given(st.integers(0, 300), st.integers(1, 40))
def test_shares_tile_the_batch_and_differ_by_at_most_one(size: int, workers: int) -> None:
    parts = [list(range(size))[share(size, workers, index)] for index in range(workers)]
    assert list(itertools.chain(*parts)) == list(range(size))
    lengths = [len(part) for part in parts]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] - lengths[-1] <= 1


@pytest.mark.parametrize(("workers", "index"), [(2, 2), (2, -1), (0, 0)])
def test_share_of_no_such_worker(workers: int, index: int) -> None:
    with pytest.raises(ValueError, match=f"worker {index}"):
        share(8, workers, index)


@given(st.data(), st.integers(1, 60), st.integers(0, 2**32), st.integers(0, 3))
def test_every_epoch_is_a_prefix_of_a_permutation(
    data: st.DataObject, length: int, seed: int, epoch: int
) -> None:
    size = data.draw(st.integers(1, length))
    steps = length // size
    batches = [
        global_batch(size, length, seed=seed, step=epoch * steps + step) for step in range(steps)
    ]
    assert all(batch.shape == (size,) and batch.dtype == torch.int64 for batch in batches)
    seen = torch.cat(batches).tolist()
    assert len(set(seen)) == len(seen) == steps * size
    assert set(seen) <= set(range(length))


@given(st.integers(1, 50), st.integers(0, 20), st.integers(1, 9))
def test_workers_together_see_the_same_batch(size: int, step: int, workers: int) -> None:
    def batch() -> torch.Tensor:
        return global_batch(size, 100, seed=3, step=step)

    together = torch.cat([batch()[share(size, workers, index)] for index in range(workers)])
    assert torch.equal(together, batch())


def test_batches_differ_between_seeds_and_epochs() -> None:
    orders = [
        global_batch(50, 50, seed=seed, step=epoch).tolist() for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_changing_a_batch_leaves_the_order_alone() -> None:
    expected = global_batch(4, 8, seed=0, step=0).tolist()
    global_batch(4, 8, seed=0, step=0).zero_()
    assert global_batch(4, 8, seed=0, step=0).tolist() == expected


@pytest.mark.parametrize(("size", "step"), [(9, 0), (0, 0), (4, -1)])
def test_impossible_batches(size: int, step: int) -> None:
    with pytest.raises(ValueError, match=r"global batch of|step -1") as error:
        global_batch(size, 8, seed=0, step=step)
    assert "\n" not in str(error.value)
