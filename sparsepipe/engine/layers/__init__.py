"""Layers on sparse tensors, with MinkowskiEngine's conventions and parameter names.

Kernel sizes, strides and dilations are whole numbers, the same along x, y and z. A strided layer
puts its outputs at floor(c / t) * t for the input voxels c and the output's tensor stride t,
whatever the kernel size.
"""

from sparsepipe.engine.layers.convolutions import Convolution, ConvolutionTranspose
from sparsepipe.engine.layers.normalisations import BatchNorm, InstanceNorm
from sparsepipe.engine.layers.poolings import (
    AveragePooling,
    GlobalAveragePooling,
    GlobalMaxPooling,
    MaxPooling,
    PoolingTranspose,
    SumPooling,
)
from sparsepipe.engine.layers.rows import Dropout, Interpolation, Linear, Pruning, ReLU

__all__ = [
    "AveragePooling",
    "BatchNorm",
    "Convolution",
    "ConvolutionTranspose",
    "Dropout",
    "GlobalAveragePooling",
    "GlobalMaxPooling",
    "InstanceNorm",
    "Interpolation",
    "Linear",
    "MaxPooling",
    "PoolingTranspose",
    "Pruning",
    "ReLU",
    "SumPooling",
]
