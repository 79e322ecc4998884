"""Mini-batches by number, which a user gives one after the other."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sparsepipe.runtime.batch import Batch
from sparsepipe.runtime.values import Value


class GivenBatches:
    """Mini-batches that are given one after the other, as `sparsepipe.runtime.stage.Batches`.

    A thread that asks for one before its turn waits until it is given, or until there will be no
    more: it then has no samples.
    """

    def __init__(self, count: Callable[[Any], int], device: torch.device) -> None:
        """`count` tells the number of targets."""
        self._count, self._device = count, device
        self._changed = threading.Condition()
        self._voxels: list[list[int]] = []
        self._kept: dict[int, Batch] = {}
        self._ended = False

    @property
    def given(self) -> int:
        """How many have been given."""
        return len(self._voxels)

    def give(self, batch: Batch) -> None:
        """Give the next mini-batch."""
        with self._changed:
            self._kept[self.given] = batch
            self._voxels.append(batch.voxels)
            self._changed.notify_all()

    def forget(self, mini_batch: int) -> None:
        """This rank is done with a mini-batch."""
        self._kept.pop(mini_batch, None)

    def end(self) -> None:
        """There will be no more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def voxels(self, mini_batch: int) -> Sequence[int]:
        """The number of voxels of each sample; waits until the mini-batch is given."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or mini_batch < self.given)
            return self._voxels[mini_batch] if mini_batch < self.given else []

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """The inputs of some samples."""
        return (self._kept[mini_batch].inputs_of(samples, self._device),)

    def targets(self, mini_batch: int, samples: range) -> Any:
        """The targets of some samples."""
        return self._kept[mini_batch].targets_of(samples, self._device)

    def count(self, mini_batch: int) -> int:
        """The number of targets."""
        return max(1, self._count(self._kept[mini_batch].targets))
