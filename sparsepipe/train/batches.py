"""The mini-batches of a workload by number, for the threads of a pipeline's rank."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepipe.runtime.batch import Batch
from sparsepipe.runtime.values import Value
from sparsepipe.train.loss import count_of
from sparsepipe.train.workload import Workload

KEPT = 32
"""The number of mini-batches that are kept in memory: more than are ever in flight."""


class CloudBatches:
    """The mini-batches of a workload by number, as `sparsepipe.runtime.stage.Batches`.

    Two threads of a rank ask for them, always for later ones.
    """

    def __init__(self, workload: Workload, device: torch.device, first: int = 0) -> None:
        """Number 0 here is the mini-batch `first` of the workload."""
        self._made, self._device = workload.mini_batches(first), device
        self._lock = threading.Lock()
        self._voxels: list[list[int]] = []
        self._labels: list[int] = []
        self._kept: dict[int, Batch] = {}

    def voxels(self, mini_batch: int) -> Sequence[int]:
        """The number of voxels of each cloud."""
        with self._lock:
            while len(self._voxels) <= mini_batch:
                self._make()
            return self._voxels[mini_batch]

    def _make(self) -> None:
        """Take the next mini-batch from the workload, and forget one that is long past."""
        batch, number = next(self._made), len(self._voxels)
        self._voxels.append(batch.voxels)
        self._labels.append(count_of(batch.targets))
        self._kept[number] = batch
        self._kept.pop(number - KEPT, None)

    def _batch(self, mini_batch: int) -> Batch:
        """One mini-batch."""
        self.voxels(mini_batch)
        with self._lock:
            return self._kept[mini_batch]

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """The voxels of some clouds, as one sparse tensor."""
        return (self._batch(mini_batch).inputs_of(samples, self._device),)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """The labels of some clouds, int64 [clouds], or of their voxels, int64 [voxels]."""
        labels: Tensor = self._batch(mini_batch).targets_of(samples, self._device)
        return labels

    def count(self, mini_batch: int) -> int:
        """The number of labels."""
        self.voxels(mini_batch)
        return max(1, self._labels[mini_batch])

    def close(self) -> None:
        """End the threads that make mini-batches."""
        self._made.close()


@dataclass(frozen=True)
class BatchesFrom:
    """The same mini-batches, where number 0 is the mini-batch `first` of `batches`."""

    batches: CloudBatches
    """The mini-batches to take from."""
    first: int
    """The number there of mini-batch 0 here."""

    def voxels(self, mini_batch: int) -> Sequence[int]:
        """The number of voxels of each cloud."""
        return self.batches.voxels(self.first + mini_batch)

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """The voxels of some clouds, as one sparse tensor."""
        return self.batches.inputs(self.first + mini_batch, samples)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """The labels of some clouds, or of their voxels."""
        return self.batches.targets(self.first + mini_batch, samples)

    def count(self, mini_batch: int) -> int:
        """The number of labels."""
        return self.batches.count(self.first + mini_batch)
