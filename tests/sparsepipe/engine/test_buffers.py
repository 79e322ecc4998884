"""Memory of large results comes back when they are gone, and not before."""

import gc
from collections import defaultdict

import numpy as np
import pytest
import torch

from sparsepipe.engine import buffers

LARGE = (512, 1024)


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of other tests in this process neither lies here nor comes back meanwhile."""
    gc.collect()
    monkeypatch.setattr(buffers, "_free", defaultdict(list))


def test_memory_comes_back_when_the_last_tensor_on_it_is_gone() -> None:
    first = buffers.empty(LARGE, torch.float32)
    assert first.shape == LARGE
    assert first.dtype == torch.float32
    address, kept = first.data_ptr(), buffers.free_bytes()
    assert address % 64 == 0
    view = first[10:20]
    del first
    second = buffers.empty(LARGE, torch.float32)
    assert second.data_ptr() != address
    del view
    gc.collect()
    assert buffers.free_bytes() >= kept
    third = buffers.empty((1000, 256), torch.float64)  # hardly fewer bytes
    assert third.data_ptr() == address


def test_gradients_own_their_memory() -> None:
    weight = torch.zeros(LARGE, requires_grad=True)

    class Filled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, weight: torch.Tensor) -> torch.Tensor:
            return weight.sum()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return buffers.empty(LARGE, torch.float32).fill_(float(gradient))

    Filled.apply(weight).backward()
    kept = weight.grad
    assert kept is not None
    weight.grad = None
    (2 * Filled.apply(weight)).backward()
    assert weight.grad is not None
    assert float(kept.amax()) == float(kept.amin()) == 1
    assert float(weight.grad.amin()) == 2


def test_small_results_are_pytorchs_and_memory_is_bounded() -> None:
    assert buffers.empty((3, 4), torch.float32).shape == (3, 4)
    assert buffers.empty((0, 4), torch.float32).shape == (0, 4)
    held = [buffers.empty((2**25,), torch.float32) for _ in range(3)]  # 128 MiB each
    held.clear()
    gc.collect()
    assert buffers.free_bytes() <= buffers.MOST_FREE_BYTES


class TakenMeanwhile(list[np.ndarray]):
    """Blocks of which another thread takes the last one just before us."""

    def pop(self, *_: object) -> np.ndarray:
        self.clear()
        return super().pop()


def test_another_thread_may_take_the_last_block() -> None:
    del (first := [buffers.empty(LARGE, torch.float32)])[0]
    ((size, blocks),) = buffers._free.items()
    assert len(blocks) == 1
    buffers._free[size] = TakenMeanwhile(blocks)
    assert buffers.empty(LARGE, torch.float32).shape == LARGE
    assert first == []
