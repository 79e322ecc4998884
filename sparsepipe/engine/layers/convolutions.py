"""Convolutions on sparse tensors, with MinkowskiEngine's conventions and parameter names."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sparsepipe.engine import backends
from sparsepipe.engine.axes import Axes
from sparsepipe.engine.channelwise import channelwise
from sparsepipe.engine.kernel import volume
from sparsepipe.engine.kernel_map import KernelMap
from sparsepipe.engine.layers.windows import Window, Windowed
from sparsepipe.engine.precision import autocast, refuse_mixed_products
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError


class Convolution(Windowed):
    """The sparse convolution y[u] = sum over offsets o of x[u + o] W[o], at every voxel u that
    exists at the output's tensor stride. Voxels u + o that do not exist add nothing.

    It takes features [N, Cin] at tensor stride t and returns features [M, Cout] at t x `stride`, of
    the same dtype. Sums are taken in float32 or wider. Under torch.autocast it computes in
    autocast's type and returns that type.

    Its parameters are `kernel` [K, Cin / groups, Cout] for K offsets ([Cin / groups, Cout] if K and
    the stride are 1) and, if `bias` is true, `bias` [1, Cout]. The order of offsets is that of
    `sparsepipe.engine.kernel`.

    Raises:
        InputError: a size makes no sense, or channels, dtypes or devices do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any = 3,
        stride: Any = 1,
        dilation: Any = 1,
        bias: bool = False,
        backend: str = "native",
        *,
        shape: Any = "cube",
        groups: int = 1,
        dimension: int = 3,
    ) -> None:
        """Make the layer with fresh weights.

        Args:
            in_channels, out_channels: Cin and Cout.
            kernel_size, stride, dilation: whole numbers, or tuples of one for each axis.
            bias: whether there is one.
            backend: who computes it, see `sparsepipe.engine.backends`.
            shape: "cube", "cross", or offsets of your own [K, axes] in steps of the dilation.
            groups: the parts into which the channels are cut, as in nn.Conv3d: each part of the
                outputs sees its own part of the inputs.
            dimension: the number of axes of the voxels, 1 to 4.
        """
        super().__init__(kernel_size, stride, dilation, shape, dimension)
        backends.backend(backend)  # raises an error for an unknown one
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise InputError(
                f"{in_channels} to {out_channels} channels in {groups} groups: give a number that "
                "divides both"
            )
        self.in_channels, self.out_channels, self.backend = in_channels, out_channels, backend
        self.groups, self.volume = groups, volume(self.kernel_size, self.shape, dimension)
        several = [] if self.volume == 1 and self.stride == 1 else [self.volume]
        self.kernel = nn.Parameter(torch.empty(*several, in_channels // groups, out_channels))
        self.bias = nn.Parameter(torch.empty(1, out_channels)) if bias else None
        self.reset_parameters(in_channels // groups)

    def reset_parameters(self, fan_channels: int) -> None:
        """Draw all parameters uniformly from +-1 / sqrt(K x `fan_channels`), as MinkowskiEngine
        does."""
        bound = 1 / math.sqrt(fan_channels * self.volume)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, tensor: SparseTensor, at: SparseTensor | None = None) -> SparseTensor:
        """Convolve features [N, Cin] to [M, Cout]; with `at`, to the voxels of that tensor."""
        return self._convolved(tensor, self.downward(tensor, at))

    def _convolved(self, tensor: SparseTensor, window: Window) -> SparseTensor:
        """Convolve over a kernel map to the voxels at a tensor stride, and add the bias."""
        if tensor.channels != self.in_channels:
            raise InputError(
                f"{tensor.channels} channels into {self}: give a tensor of {self.in_channels}"
            )
        features = self._products(tensor.rows, window.kernel_map)
        if self.bias is not None:
            refuse_mixed_products(tensor.features, self.bias, "bias")
            (bias,) = autocast(self.bias)
            features = features + bias
        return tensor.on(window.maps, window.tensor_stride, features)

    def _products(self, rows: Tensor, kernel_map: KernelMap) -> Tensor:
        """The convolution of rows [N, Cin] to [M, Cout], group by group."""
        weight = self.kernel.view(-1, self.in_channels // self.groups, self.out_channels)
        if self.groups == 1:
            return backends.convolve(rows, weight, kernel_map, self.backend)
        parts = zip(rows.chunk(self.groups, 1), weight.chunk(self.groups, 2), strict=True)
        products = [backends.convolve(x, w, kernel_map, self.backend) for x, w in parts]
        return torch.cat(products, 1)

    def extra_repr(self) -> str:
        """The sizes that printing the layer shows."""
        grouped = f", groups={self.groups}" if self.groups > 1 else ""
        return f"{self.in_channels}, {self.out_channels}, {super().extra_repr()}{grouped}"


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

    def stride_of_output(self, tensor: SparseTensor) -> Axes:
        """The tensor stride of the layer's output."""
        return self.upward_kernel(tensor).fine_stride

    def forward(self, tensor: SparseTensor, at: SparseTensor | None = None) -> SparseTensor:
        """Convolve features [N, Cin] to [M, Cout] at the finer voxels; with `at`, at those of that
        tensor."""
        return self._convolved(tensor, self.upward(tensor, at))


class GenerativeConvolutionTranspose(ConvolutionTranspose):
    """A transposed convolution that makes its own voxels: all v = u + o for the input's voxels u
    and the offsets o of the kernel, at tensor stride t / `stride`.

    Of a kernel of size 2 and stride 2 every voxel makes eight. What follows, usually `Pruning`,
    says which of them stay. Coarser voxels are made anew from these.

    Raises:
        InputError: as for `ConvolutionTranspose`; or voxels would lie beyond the limits of
            coordinates.
    """

    def forward(self, tensor: SparseTensor, at: SparseTensor | None = None) -> SparseTensor:
        """Convolve features [N, Cin] to [M, Cout] at new voxels."""
        if at is not None:
            raise InputError(f"{self} makes its own voxels: take ConvolutionTranspose with `at`")
        kernel = self.upward_kernel(tensor)
        maps, kernel_map = tensor.maps.generate(kernel)
        return self._convolved(tensor, Window(maps, kernel.fine_stride, kernel_map))


class ChannelwiseConvolution(Windowed):
    """A convolution of each channel by itself: y[u] = sum over offsets o of x[u + o] * w[o].

    Its parameters are `kernel` [K, C] and, if `bias` is true, `bias` [1, C], as in
    MinkowskiEngine's MinkowskiChannelwiseConvolution. Sums are taken in float32 or wider.

    Raises:
        InputError: a size makes no sense, or channels or dtypes do not fit.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Any = 3,
        stride: Any = 1,
        dilation: Any = 1,
        bias: bool = False,
        *,
        shape: Any = "cube",
        dimension: int = 3,
    ) -> None:
        """Make the layer with fresh weights; the arguments are those of `Convolution`."""
        super().__init__(kernel_size, stride, dilation, shape, dimension)
        self.channels = channels
        offsets = volume(self.kernel_size, self.shape, dimension)
        self.kernel = nn.Parameter(torch.empty(offsets, channels))
        self.bias = nn.Parameter(torch.empty(1, channels)) if bias else None
        bound = 1 / math.sqrt(channels * offsets)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, tensor: SparseTensor, at: SparseTensor | None = None) -> SparseTensor:
        """Convolve features [N, C] to [M, C]; with `at`, to the voxels of that tensor."""
        if tensor.channels != self.channels:
            raise InputError(
                f"{tensor.channels} channels into {self}: give a tensor of {self.channels}"
            )
        window = self.downward(tensor, at)
        rows = channelwise(tensor.rows, self.kernel, window.kernel_map)
        if self.bias is not None:
            refuse_mixed_products(tensor.features, self.bias, "bias")
            rows = rows + autocast(self.bias)[0]
        return tensor.on(window.maps, window.tensor_stride, rows)

    def extra_repr(self) -> str:
        """The sizes that printing the layer shows."""
        return f"{self.channels}, {super().extra_repr()}"
