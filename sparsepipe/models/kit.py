"""The layers that a network is built of: sparse ones, or their dense twins.

One network class serves both: MinkVGG16(1, 40) is sparse, MinkVGG16(1, 40, kit=DENSE) is the same
network on nn.Conv3d, which computes every cell of the volume, occupied or not.
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
    """How to make each layer; sizes are those of one spatial dimension, all three are alike."""

    convolution: Callable[..., nn.Module]
    """in_channels, out_channels, kernel_size, stride=1, bias=False."""
    convolution_transpose: Callable[..., nn.Module]
    """in_channels, out_channels, kernel_size, stride: back to the voxels before that stride."""
    batch_norm: Callable[[int], nn.Module]
    relu: Callable[[], nn.Module]
    max_pooling: Callable[[int, int], nn.Module]
    """kernel_size, stride."""
    global_max_pooling: Callable[[], nn.Module]
    linear: Callable[[int, int], nn.Module]
    dropout: Callable[[float], nn.Module]
    cat: Callable[[Any, Any], Any]
    """Joins the channels of two tensors on the same voxels."""


def _cat_sparse(first: SparseTensor, second: SparseTensor) -> SparseTensor:
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


def _dense_convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = False
) -> nn.Module:
    """Padded so that a stride of 1 keeps the volume; larger strides cut it into blocks."""
    padding = kernel_size // 2 if stride == 1 else 0
    return nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding, bias=bias)


def _dense_transpose(
    in_channels: int, out_channels: int, kernel_size: int, stride: int
) -> nn.Module:
    return nn.ConvTranspose3d(in_channels, out_channels, kernel_size, stride, bias=False)


class _DenseGlobalMaxPooling(nn.Sequential):
    """[B, C, X, Y, Z] to [B, C]."""

    def __init__(self) -> None:
        super().__init__(nn.AdaptiveMaxPool3d(1), nn.Flatten())


def _cat_dense(first: Tensor, second: Tensor) -> Tensor:
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
