"""Normalisations of sparse tensors: over the batch, or over each sample."""

import torch
from torch import Tensor, nn

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
        of_batch = self.training or self.bn.running_mean is None  # the statistics
        if of_batch and len(tensor) < 2:
            raise InputError(
                f"BatchNorm of the batch's own statistics on {len(tensor)} voxels: give larger "
                "clouds or batches"
            )
        if self.bn.affine and self.bn.weight.dtype != widened(tensor.features).dtype:
            refuse_mixed(tensor.features, self.bn.weight)
        return tensor.replace(self.bn(tensor.features))


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
