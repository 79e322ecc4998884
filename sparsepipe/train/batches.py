"""A workload's mini-batches by number, for the threads of a pipeline's rank."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsepipe.pipeline.values import Value, take_samples
from sparsepipe.train.workload import MiniBatch, Workload

KEPT = 32
"""Mini-batches in memory: more than are ever in flight."""


class CloudBatches:
    """A workload's mini-batches by number; two threads of a rank ask for them, ever later ones."""

    def __init__(self, workload: Workload, device: torch.device, first: int = 0) -> None:
        """From the workload's number `first` on, counted from 0."""
        self._made, self._device = workload.mini_batches(first), device
        self._lock = threading.Lock()
        self._voxels: list[list[int]] = []
        self._kept: dict[int, MiniBatch] = {}

    def voxels(self, mini_batch: int) -> Sequence[int]:
        """Of each cloud."""
        with self._lock:
            while len(self._voxels) <= mini_batch:
                self._make()
            return self._voxels[mini_batch]

    def _make(self) -> None:
        batch, number = next(self._made), len(self._voxels)
        samples = batch.inputs.coordinates[:, 0].long()
        self._voxels.append(torch.bincount(samples, minlength=len(batch.labels)).tolist())
        self._kept[number] = batch
        self._kept.pop(number - KEPT, None)

    def _batch(self, mini_batch: int) -> MiniBatch:
        self.voxels(mini_batch)
        with self._lock:
            return self._kept[mini_batch].to(self._device)

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """The voxels of these clouds."""
        return take_samples((self._batch(mini_batch).inputs,), samples)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """Their labels."""
        return self._batch(mini_batch).labels[samples.start : samples.stop]

    def count(self, mini_batch: int) -> int:
        """How many clouds."""
        return len(self.voxels(mini_batch))

    def close(self) -> None:
        """End what makes them."""
        self._made.close()


@dataclass(frozen=True)
class BatchesFrom:
    """Mini-batches from number `first` on, counted from 0."""

    batches: CloudBatches
    first: int

    def voxels(self, mini_batch: int) -> Sequence[int]:
        """Of each cloud."""
        return self.batches.voxels(self.first + mini_batch)

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        """The voxels of these clouds."""
        return self.batches.inputs(self.first + mini_batch, samples)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        """Their labels."""
        return self.batches.targets(self.first + mini_batch, samples)

    def count(self, mini_batch: int) -> int:
        """How many clouds."""
        return self.batches.count(self.first + mini_batch)
