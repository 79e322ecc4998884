"""Convolutions on sparse tensors, with MinkowskiEngine's conventions and parameter names."""

import math

import torch
from torch import nn

from sparsepipe.engine import backends
from sparsepipe.engine.kernel_map import KernelMap
from sparsepipe.engine.layers.windows import Windowed
from sparsepipe.engine.precision import autocast, refuse_mixed_products
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError


class Convolution(Windowed):
    """The sparse convolution y[u] = sum over offsets o of x[u + o] W[o], at every voxel u that
    exists at the output's tensor stride. Voxels u + o that do not exist add nothing.

    It takes features [N, Cin] at tensor stride t and returns features [M, Cout] at t x `stride`, of
    the same dtype. Sums are taken in float32 or wider. Under torch.autocast it computes in
    autocast's type and returns that type.

    Its parameters are `kernel` [K, Cin, Cout] for K = kernel_size^3 offsets ([Cin, Cout] if kernel
    size and stride are 1) and, if `bias` is true, `bias` [1, Cout]. The order of offsets is that of
    `sparsepipe.engine.coordinates.kernel_offsets`.

    Raises:
        InputError: a size makes no sense, or channels, dtypes or devices do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
        backend: str = "native",
    ) -> None:
        super().__init__(kernel_size, stride, dilation)
        backends.backend(backend)  # raises an error for an unknown one
        self.in_channels, self.out_channels, self.backend = in_channels, out_channels, backend
        volume = [] if kernel_size == stride == 1 else [kernel_size**3]
        self.kernel = nn.Parameter(torch.empty(*volume, in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(1, out_channels)) if bias else None
        self.reset_parameters(in_channels)

    def reset_parameters(self, fan_channels: int) -> None:
        """Draw all parameters uniformly from +-1 / sqrt(K x `fan_channels`), as MinkowskiEngine
        does."""
        bound = 1 / math.sqrt(fan_channels * self.kernel_size**3)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """Convolve features [N, Cin] to [M, Cout]."""
        return self._convolved(tensor, *self.downward(tensor))

    def _convolved(self, tensor: SparseTensor, stride: int, kernel_map: KernelMap) -> SparseTensor:
        """Convolve over a kernel map to the voxels at a tensor stride, and add the bias."""
        if tensor.channels != self.in_channels:
            raise InputError(
                f"{tensor.channels} channels into {self}: give a tensor of {self.in_channels}"
            )
        weight = self.kernel.view(-1, self.in_channels, self.out_channels)
        features = backends.convolve(tensor.rows, weight, kernel_map, self.backend)
        if self.bias is not None:
            refuse_mixed_products(tensor.features, self.bias, "bias")
            (bias,) = autocast(self.bias)
            features = features + bias
        return SparseTensor.on(tensor.maps, stride, features)

    def extra_repr(self) -> str:
        """The sizes that printing the layer shows."""
        return f"{self.in_channels}, {self.out_channels}, {super().extra_repr()}"


class ConvolutionTranspose(Convolution):
    """A convolution with inputs and outputs swapped: it goes from tensor stride t back to t /
    `stride`, to the very voxels that the strided layers before it came from.

    If a strided `Convolution` adds x[v] W[o] to y[u], then this one adds x[u] W[o] to y[v].

    Raises:
        InputError: as for `Convolution`; or the stride does not divide t; or no earlier layer made
            voxels at t / stride.
    """

    def reset_parameters(self, fan_channels: int) -> None:
        """Draw all parameters uniformly from +-1 / sqrt(K x Cout), as MinkowskiEngine does."""
        super().reset_parameters(self.out_channels)

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """Convolve features [N, Cin] to [M, Cout] at the finer voxels."""
        return self._convolved(tensor, *self.upward(tensor))
