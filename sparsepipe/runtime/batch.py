"""A mini-batch: the inputs of a network and the targets of its loss, divided by samples."""

import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.runtime.values import Value, features_of, samples_of, take_samples
from systems.data.pinned import moved, pinned
from systems.schema import InputError

PRINTED_BYTES = 1024
"""So many bytes of each tensor, and its shape, tell mini-batches apart."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The inputs of a network and the targets of its loss, for some samples."""

    inputs: Value
    """A sparse tensor, or a tensor whose first dimension is the samples."""
    targets: Any
    """A tensor, or tuples and dicts of tensors; a row for each sample, or for each voxel in the
    order of the sparse tensor's keys."""

    def __len__(self) -> int:
        return samples_of(self.inputs)

    @property
    def voxels(self) -> list[int]:
        """The voxels of each sample; samples of a plain tensor count as one each."""
        if isinstance(self.inputs, SparseTensor):
            return self.inputs.maps.sizes(self.inputs.tensor_stride)
        return [1] * len(self)

    def to(self, device: torch.device) -> "Batch":
        """The same mini-batch on a device."""
        return Batch(*moved((self.inputs, self.targets), device))

    def pinned_for(self, device: torch.device) -> "Batch":
        """The same mini-batch in pinned memory, if it will be copied to a GPU."""
        return Batch(*pinned((self.inputs, self.targets), device))

    def inputs_of(self, samples: range, device: torch.device) -> Value:
        """The inputs of some samples, on a device."""
        (taken,) = take_samples((self.inputs,), samples)
        on_device: Value = moved(taken, device)
        return on_device

    def targets_of(self, samples: range, device: torch.device) -> Any:
        """The targets of some samples, on a device."""
        rows = {len(self): slice(samples.start, samples.stop)}
        if isinstance(self.inputs, SparseTensor):
            of_voxels = self.inputs.maps.rows(self.inputs.tensor_stride, samples)
            rows = {len(self.inputs): of_voxels} | rows
        taken = pytree.tree_map(lambda target: target[rows[len(target)]], self.targets)
        return moved(taken, device)

    def fingerprint(self) -> int:
        """A number of 32 bits that is equal on all ranks if they were given the same."""
        value = 0
        for tensor in (features_of(self.inputs), *pytree.tree_leaves(self.targets)):
            size = max(1, PRINTED_BYTES // tensor.element_size())
            first = tensor.detach().reshape(-1)[:size].cpu().contiguous().view(torch.uint8)
            value = zlib.crc32(
                first.numpy().tobytes(), zlib.crc32(str(tensor.shape).encode(), value)
            )
        return value


def as_batch(given: Any) -> Batch:
    """The mini-batch in `(inputs, targets)`, or in inputs alone, which then are the targets too.

    Raises:
        InputError: it is something else, or the targets have neither a row for every sample nor one
            for every voxel.
    """
    inputs, targets = (
        given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, None)
    )
    if not isinstance(inputs, SparseTensor | Tensor) or (
        isinstance(inputs, Tensor) and inputs.ndim == 0
    ):
        raise InputError(
            f"a batch of {type(given).__name__}: give (inputs, targets), or inputs alone; inputs "
            "are a SparseTensor or a tensor whose first dimension is the samples"
        )
    if targets is None:
        targets = features_of(inputs)
    return Batch(inputs, pytree.tree_map(lambda target: _sorted(inputs, target), targets))


def _sorted(inputs: Value, target: Any) -> Tensor:
    """A target's rows in the order in which a pipeline divides them."""
    samples = samples_of(inputs)
    rows = len(target) if isinstance(target, Tensor) and target.ndim else None
    if not isinstance(inputs, SparseTensor):
        if rows != samples:
            raise InputError(
                f"targets of {_shape(target)}: give {samples} rows, one for each sample"
            )
        return target
    voxels = len(inputs)
    if rows == voxels:
        in_order = inputs.maps.sorted(inputs.tensor_stride, target)
        if rows == samples and not (in_order is target and set(_sizes(inputs)) == {1}):
            raise InputError(
                f"targets of {_shape(target)}: a mini-batch of {samples} clouds and as many voxels "
                "does not tell whether clouds or voxels are labelled; leave it out"
            )
        return in_order
    if rows != samples:
        raise InputError(
            f"targets of {_shape(target)}: give {samples} rows, one for each cloud, or {voxels}, "
            "one for each voxel"
        )
    return target


def _sizes(inputs: SparseTensor) -> list[int]:
    """The voxels of each sample."""
    return inputs.maps.sizes(inputs.tensor_stride)


def _shape(target: Any) -> str:
    """What a target is, for messages."""
    if isinstance(target, Tensor):
        return f"shape {list(target.shape)}"
    return f"type {type(target).__name__}"
