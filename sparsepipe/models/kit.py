"""Kits: the layers that a network is built of, sparse ones or their dense twins.

One network class serves both. MinkVGG16(1, 40) is sparse, and MinkVGG16(1, 40, kit=DENSE) is the
same network on nn.Conv3d, which computes every cell of the volume, occupied or not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsepipe.engine import layers
from sparsepipe.engine.tensor import SparseTensor, cat


@dataclass(frozen=True, kw_only=True)
class Kit:
    """Functions that make layers. Sizes and strides are the same along x, y and z."""

    convolution: Callable[..., nn.Module]
    """Takes in_channels, out_channels, kernel_size, stride=1, bias=False."""
    convolution_transpose: Callable[..., nn.Module]
    """Takes in_channels, out_channels, kernel_size, stride. The layer returns to the voxels that a
    convolution of that stride came from."""
    batch_norm: Callable[[int], nn.Module]
    """Takes the number of channels."""
    relu: Callable[[], nn.Module]
    max_pooling: Callable[[int, int], nn.Module]
    """Takes kernel_size and stride."""
    global_max_pooling: Callable[[], nn.Module]
    """The layer returns one row for each sample."""
    linear: Callable[[int, int], nn.Module]
    """Takes in_features and out_features."""
    dropout: Callable[[float], nn.Module]
    """Takes the probability that a value is dropped."""
    cat: Callable[[Any, Any], Any]
    """Joins the channels of two tensors on the same voxels."""


def _cat_sparse(first: SparseTensor, second: SparseTensor) -> SparseTensor:
    """Join the channels of two sparse tensors on the same voxels."""
    return cat([first, second])


SPARSE = Kit(
    convolution=layers.Convolution,
    convolution_transpose=layers.ConvolutionTranspose,
    batch_norm=layers.BatchNorm,
    relu=layers.ReLU,
    max_pooling=layers.MaxPooling,
    global_max_pooling=layers.GlobalMaxPooling,
    linear=layers.Linear,
    dropout=layers.Dropout,
    cat=_cat_sparse,
)
"""Sparse layers, which compute only where voxels exist."""


def _dense_convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = False
) -> nn.Module:
    """A dense convolution. At stride 1 it is padded so that the volume keeps its size; larger
    strides cut the volume into blocks."""
    padding = kernel_size // 2 if stride == 1 else 0
    return nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)


def _dense_transpose(
    in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> nn.Module:
    """A dense transposed convolution."""
    return nn.ConvTranspose3d(in_channels, out_channels, kernel_size, stride, bias=False)


class _DenseGlobalMaxPooling(nn.Sequential):
    """The largest value of each channel: [B, C, X, Y, Z] becomes [B, C]."""

    def __init__(self) -> None:
        super().__init__(nn.AdaptiveMaxPool3d(1), nn.Flatten())


def _cat_dense(first: Tensor, second: Tensor) -> Tensor:
    """Join the channels of two volumes [B, C, X, Y, Z]."""
    return torch.cat((first, second), dim=1)


DENSE = Kit(
    convolution=_dense_convolution,
    convolution_transpose=_dense_transpose,
    batch_norm=nn.BatchNorm3d,
    relu=nn.ReLU,
    max_pooling=nn.MaxPool3d,
    global_max_pooling=_DenseGlobalMaxPooling,
    linear=nn.Linear,
    dropout=nn.Dropout,
    cat=_cat_dense,
)
"""Dense layers, which compute every cell of the volume."""
