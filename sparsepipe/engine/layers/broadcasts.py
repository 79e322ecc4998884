"""Layers that give every voxel the features of its sample, such as those of global pooling."""

import torch
from torch import Tensor, nn

from sparsepipe.engine.axes import axes
from sparsepipe.engine.precision import taken
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError


class Broadcast(nn.Module):
    """The features of a voxel's sample in place of its own: [N, C] and [batch size, C'] become [N,
    C'] on the voxels of the first.

    Raises:
        InputError: the second tensor is not globally pooled, or is of other samples.
    """

    def forward(self, tensor: SparseTensor, pooled: SparseTensor) -> SparseTensor:
        """Spread `pooled`, at tensor stride 0, over the voxels of `tensor`."""
        return tensor.replace(self.combine(tensor.features, self._spread(tensor, pooled)))

    def combine(self, features: Tensor, spread: Tensor) -> Tensor:
        """What becomes of a tensor's own features [N, C] and those of its samples, [N, C']."""
        return spread

    def _spread(self, tensor: SparseTensor, pooled: SparseTensor) -> Tensor:
        """The features of each voxel's sample."""
        if axes(pooled.tensor_stride) != 0:
            raise InputError(f"{pooled} is not globally pooled: give what a global pooling returns")
        if pooled.batch_size != tensor.batch_size or pooled.device != tensor.device:
            raise InputError(f"{pooled} for {tensor}: give a tensor of the same samples and device")
        return taken(pooled.rows, tensor.coordinates[:, 0])


class BroadcastAddition(Broadcast):
    """The features of a voxel plus those of its sample."""

    def combine(self, features: Tensor, spread: Tensor) -> Tensor:
        """Add them."""
        return features + spread


class BroadcastMultiplication(Broadcast):
    """The features of a voxel times those of its sample."""

    def combine(self, features: Tensor, spread: Tensor) -> Tensor:
        """Multiply them."""
        return features * spread


class BroadcastConcatenation(Broadcast):
    """The features of a voxel, and after them those of its sample: [N, C + C']."""

    def combine(self, features: Tensor, spread: Tensor) -> Tensor:
        """Join them."""
        return torch.cat([features, spread], 1)
