"""Layers on sparse tensors, with MinkowskiEngine's conventions and parameter names.

Kernel sizes, strides and dilations are whole numbers, the same along x, y and z, or tuples of one
for each axis. A strided layer puts its outputs at floor(c / t) * t for the input voxels c and the
output's tensor stride t, whatever the kernel size.
"""

from sparsepipe.engine.layers.broadcasts import (
    Broadcast,
    BroadcastAddition,
    BroadcastConcatenation,
    BroadcastMultiplication,
)
from sparsepipe.engine.layers.convolutions import (
    ChannelwiseConvolution,
    Convolution,
    ConvolutionTranspose,
    GenerativeConvolutionTranspose,
)
from sparsepipe.engine.layers.normalisations import BatchNorm, InstanceNorm, norm_relu
from sparsepipe.engine.layers.poolings import (
    AveragePooling,
    GlobalAveragePooling,
    GlobalMaxPooling,
    GlobalSumPooling,
    MaxPooling,
    PoolingTranspose,
    SumPooling,
)
from sparsepipe.engine.layers.rows import (
    Dropout,
    Elementwise,
    Interpolation,
    Linear,
    Pruning,
    ReLU,
    Union,
)

__all__ = [
    "AveragePooling",
    "BatchNorm",
    "Broadcast",
    "BroadcastAddition",
    "BroadcastConcatenation",
    "BroadcastMultiplication",
    "ChannelwiseConvolution",
    "Convolution",
    "ConvolutionTranspose",
    "Dropout",
    "Elementwise",
    "GenerativeConvolutionTranspose",
    "GlobalAveragePooling",
    "GlobalMaxPooling",
    "GlobalSumPooling",
    "InstanceNorm",
    "Interpolation",
    "Linear",
    "MaxPooling",
    "PoolingTranspose",
    "Pruning",
    "ReLU",
    "SumPooling",
    "Union",
    "norm_relu",
]
