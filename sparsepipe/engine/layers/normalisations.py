"""Normalisations of sparse tensors: over the batch, or over each sample."""

from typing import Any

import torch
from torch import Tensor, nn

from sparsepipe.engine.batch_norm import batch_norm, hooked, served
from sparsepipe.engine.layers.rows import ReLU
from sparsepipe.engine.precision import refuse_mixed, widened
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError


class BatchNorm(nn.Module):
    """nn.BatchNorm1d over all voxels of the batch. Its parameters are `bn.weight` and `bn.bias`,
    [C].

    Statistics are taken in float32 or wider. Parameters may be float32 where features are narrower.

    Raises:
        InputError: there are fewer than two voxels in training, or without running statistics; or
            the parameters have another dtype than the features.
    """

    def __init__(
        self,
        channels: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        """Make the layer; the arguments are those of nn.BatchNorm1d."""
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, eps, momentum, affine, track_running_stats)

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """Normalise features [N, C] to [N, C]."""
        return self._normalised(tensor)

    def _normalised(
        self, tensor: SparseTensor, shortcut: Tensor | None = None, *, relu: bool = False
    ) -> SparseTensor:
        """Normalise features [N, C], add a shortcut [N, C], and set to 0 what is below, if
        `relu`."""
        of_batch = self.training or self.bn.running_mean is None  # the statistics
        if of_batch and len(tensor) < 2:
            raise InputError(
                f"BatchNorm of the batch's own statistics on {len(tensor)} voxels: give larger "
                "clouds or batches"
            )
        if self.bn.affine and self.bn.weight.dtype != widened(tensor.features).dtype:
            refuse_mixed(tensor.features, self.bn.weight)
        return tensor.replace(batch_norm(tensor.features, self.bn, shortcut, relu=relu))


def norm_relu(norm: nn.Module, relu: nn.Module, tensor: Any, shortcut: Any = None) -> Any:
    """relu(norm(tensor) + shortcut), or relu(norm(tensor)) where there is no shortcut.

    Where Triton's kernels serve, one computes all of it. Elsewhere the layers are called one after
    the other, as they are where somebody has put hooks on them, or traces the network.
    """
    if isinstance(norm, BatchNorm) and _can_be_joined(norm, relu, tensor, shortcut):
        added = None if shortcut is None else shortcut.features
        return norm._normalised(tensor, added, relu=True)
    found = norm(tensor)
    return relu(found if shortcut is None else found + shortcut)


def _can_be_joined(norm: BatchNorm, relu: nn.Module, tensor: Any, shortcut: Any) -> bool:
    """Whether one kernel computes what the layers would."""
    if type(norm).forward is not BatchNorm.forward or type(relu) is not ReLU:
        return False
    if not isinstance(tensor, SparseTensor) or hooked(norm, relu, relu.module):
        return False
    return served(tensor.features, norm.bn) and (shortcut is None or _alike(tensor, shortcut))


def _alike(tensor: SparseTensor, other: Any) -> bool:
    """Whether another tensor has features of the same shape and dtype, row by row."""
    return (
        isinstance(other, SparseTensor)
        and other.maps is tensor.maps
        and other.tensor_stride == tensor.tensor_stride
        and other.shape == tensor.shape
        and other.dtype == tensor.dtype
    )


class InstanceNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias, where mean and variance are those of a
    channel over the voxels of one sample.

    The variance is the sum of squares divided by the number of voxels; there are no running
    statistics. Parameters are `weight` and `bias`, [1, C]. They and the default of eps are those of
    MinkowskiEngine's MinkowskiInstanceNorm. Statistics are taken in float32 or wider.

    Raises:
        InputError: the parameters have another dtype than the features. They may be float32 where
            features are narrower.
    """

    def __init__(self, channels: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1, channels))
        self.bias = nn.Parameter(torch.zeros(1, channels))

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """Normalise features [N, C] to [N, C]."""
        features = widened(tensor.rows)
        if self.weight.dtype != features.dtype:
            refuse_mixed(tensor.features, self.weight)
        samples = features.split(tensor.maps.sizes(tensor.tensor_stride))
        rows = torch.cat([self._standardized(sample) for sample in samples])
        rows = (rows * self.weight + self.bias).to(tensor.features.dtype)
        return tensor.on(tensor.maps, tensor.tensor_stride, rows)

    def _standardized(self, rows: Tensor) -> Tensor:
        """The rows [n, C] of one sample, shifted to mean 0 and scaled to variance 1."""
        if not len(rows):
            return rows
        centred = rows - rows.mean(0)
        return centred * (centred.square().mean(0) + self.eps).rsqrt()

    def extra_repr(self) -> str:
        """The sizes that printing the layer shows."""
        return f"{self.weight.shape[1]}, eps={self.eps}"
