"""Layers on sparse tensors, with MinkowskiEngine's conventions and parameter names.

Offsets and their order: `sparsepipe.engine.coordinates.kernel_offsets`. Kernel sizes, strides and
dilations are whole numbers, the same along x, y and z. Strided layers put their outputs at
floor(c / t) * t, whatever the kernel size.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsepipe.engine import backends
from sparsepipe.engine.interpolation import interpolate
from sparsepipe.engine.kernel_map import Kernel, KernelMap
from sparsepipe.engine.pooling import (
    average_of_samples,
    average_pool,
    max_of_samples,
    max_pool,
    sum_pool,
)
from sparsepipe.engine.precision import (
    autocast,
    refuse_mixed,
    refuse_mixed_products,
    widened,
)
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError


class _Windowed(nn.Module):
    """What has a kernel size, stride and dilation.

    Raises:
        InputError: one that makes no sense.
    """

    def __init__(self, kernel_size: int, stride: int, dilation: int) -> None:
        super().__init__()
        Kernel(kernel_size, dilation, 1, stride)  # refuses what makes no sense
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation

    def downward(self, tensor: SparseTensor) -> tuple[int, KernelMap]:
        """The output's tensor stride and the kernel map to it, made if they are not there yet."""
        fine = tensor.tensor_stride
        kernel = Kernel(self.kernel_size, self.dilation, fine, fine * self.stride)
        return tensor.maps.coarsen(fine, self.stride), tensor.maps.kernel_map(kernel)

    def upward(self, tensor: SparseTensor) -> tuple[int, KernelMap]:
        """The same for a transposed layer, whose outputs must be there."""
        coarse = tensor.tensor_stride
        if coarse % self.stride:
            raise InputError(
                f"a transposed layer of stride {self.stride} at tensor stride {coarse}: "
                "give a stride that divides it"
            )
        fine = coarse // self.stride
        kernel = Kernel(self.kernel_size, self.dilation, fine, coarse)
        return fine, tensor.maps.kernel_map(kernel, transposed=True)

    def extra_repr(self) -> str:
        """What print shows."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}"


class Convolution(_Windowed):
    """y[u] = sum over offsets o of x[u + o] W[o], at every occupied voxel u of the output stride.

    [N, Cin] at tensor stride t to [M, Cout] at t x stride. Parameters: `kernel` [K, Cin, Cout], or
    [Cin, Cout] if kernel size and stride are 1; with `bias`, `bias` [1, Cout]. Sums are taken in
    float32 or wider. Under torch.autocast it computes in, and returns, autocast's type.

    Raises:
        InputError: a size that makes no sense; channels, types or devices that do not fit.
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
        backends.backend(backend)  # refuses an unknown one
        self.in_channels, self.out_channels, self.backend = in_channels, out_channels, backend
        volume = [] if kernel_size == stride == 1 else [kernel_size**3]
        self.kernel = nn.Parameter(torch.empty(*volume, in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(1, out_channels)) if bias else None
        self.reset_parameters(in_channels)

    def reset_parameters(self, fan_channels: int) -> None:
        """Uniform in +-1 / sqrt(K x `fan_channels`), as MinkowskiEngine."""
        bound = 1 / math.sqrt(fan_channels * self.kernel_size**3)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """See the class."""
        return self._convolved(tensor, *self.downward(tensor))

    def _convolved(self, tensor: SparseTensor, stride: int, kernel_map: KernelMap) -> SparseTensor:
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
        """What print shows."""
        return f"{self.in_channels}, {self.out_channels}, {super().extra_repr()}"


class ConvolutionTranspose(Convolution):
    """`Convolution`'s map swapped: from tensor stride t to the voxels at t / stride that the
    strided layers came from.

    Raises:
        InputError: as `Convolution`; a stride that does not divide t; no voxels at t / stride.
    """

    def reset_parameters(self, fan_channels: int) -> None:
        """Uniform in +-1 / sqrt(K x outputs), as MinkowskiEngine."""
        super().reset_parameters(self.out_channels)

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """See the class."""
        return self._convolved(tensor, *self.upward(tensor))


class _Pooling(_Windowed):
    """[N, C] at tensor stride t to [M, C] at t x stride."""

    pool: Callable[[Tensor, KernelMap], Tensor]

    def __init__(self, kernel_size: int = 2, stride: int = 2, dilation: int = 1) -> None:
        super().__init__(kernel_size, stride, dilation)

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """See the class."""
        stride, kernel_map = self.downward(tensor)
        return SparseTensor.on(tensor.maps, stride, self.pool(tensor.rows, kernel_map))


class MaxPooling(_Pooling):
    """The largest of the neighbours present, or NaN if one is; gradients: see `max_pool`."""

    pool = staticmethod(max_pool)


class AveragePooling(_Pooling):
    """The mean of the neighbours present: empty voxels do not count."""

    pool = staticmethod(average_pool)


class SumPooling(_Pooling):
    """The sum of the neighbours present."""

    pool = staticmethod(sum_pool)


class PoolingTranspose(_Pooling):
    """`SumPooling`'s map swapped, from tensor stride t to t / stride: a voxel gets the sum of those
    coarser voxels that it would be pooled to.

    With a stride as large as the kernel there is one such voxel, whose features are copied. This is
    what MinkowskiEngine 0.5.4 computes; its documentation says that the sum is divided by the
    number of voxels in it, which its code does not do.

    Raises:
        InputError: a stride that does not divide t; no voxels at t / stride.
    """

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """See the class."""
        stride, kernel_map = self.upward(tensor)
        return SparseTensor.on(tensor.maps, stride, sum_pool(tensor.rows, kernel_map))


class GlobalMaxPooling(nn.Module):
    """[N, C] to [batch size, C] at tensor stride 0: one row for each sample, in batch order.

    An empty sample's row is 0. NaN and gradients are handled as in `MaxPooling`.
    """

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """See the class."""
        rows = max_of_samples(tensor.rows, tensor.maps.starts(tensor.tensor_stride))
        return SparseTensor.on(tensor.maps, tensor.maps.pool(tensor.tensor_stride), rows)


class GlobalAveragePooling(nn.Module):
    """[N, C] to [batch size, C], as `GlobalMaxPooling`."""

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """See the class."""
        sizes = tensor.maps.sizes(tensor.tensor_stride)
        rows = average_of_samples(tensor.rows, sizes)
        return SparseTensor.on(tensor.maps, tensor.maps.pool(tensor.tensor_stride), rows)


class BatchNorm(nn.Module):
    """nn.BatchNorm1d over all voxels of the batch; its parameters are `bn.weight` and so on.

    Statistics are taken in float32 or wider. Parameters may be float32 where features are narrower.

    Raises:
        InputError: in training, fewer than two voxels; parameters of another type.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(channels, eps=eps, momentum=momentum)

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """[N, C] to [N, C]."""
        if self.training and len(tensor) < 2:
            raise InputError(
                f"BatchNorm in training on {len(tensor)} voxels: give larger clouds or batches"
            )
        if self.bn.weight.dtype != widened(tensor.features).dtype:
            refuse_mixed(tensor.features, self.bn.weight)
        return tensor.replace(self.bn(tensor.features))


class InstanceNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias, of each sample over its own voxels.

    The variance is divided by the number of voxels; there are no running statistics. Parameters
    are `weight` and `bias`, [1, C]. They and the default of eps are those of MinkowskiEngine's
    MinkowskiInstanceNorm. Statistics are taken in float32 or wider.

    Raises:
        InputError: parameters of another type than the features; they may be float32 where features
            are narrower.
    """

    def __init__(self, channels: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1, channels))
        self.bias = nn.Parameter(torch.zeros(1, channels))

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """[N, C] to [N, C]."""
        features = widened(tensor.rows)
        if self.weight.dtype != features.dtype:
            refuse_mixed(tensor.features, self.weight)
        samples = features.split(tensor.maps.sizes(tensor.tensor_stride))
        rows = torch.cat([self._standardized(sample) for sample in samples])
        rows = (rows * self.weight + self.bias).to(tensor.features.dtype)
        return SparseTensor.on(tensor.maps, tensor.tensor_stride, rows)

    def _standardized(self, rows: Tensor) -> Tensor:
        if not len(rows):
            return rows
        centred = rows - rows.mean(0)
        return centred * (centred.square().mean(0) + self.eps).rsqrt()

    def extra_repr(self) -> str:
        """What print shows."""
        return f"{self.weight.shape[1]}, eps={self.eps}"


class Linear(nn.Module):
    """nn.Linear on every row; its parameters are `linear.weight` and `linear.bias`.

    Raises:
        InputError: parameters of another type than the features, without torch.autocast.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """[N, Cin] to [N, Cout]."""
        refuse_mixed_products(tensor.features, self.linear.weight)
        return tensor.replace(self.linear(tensor.features))


class ReLU(nn.Module):
    """max(x, 0)."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.module = nn.ReLU(inplace)

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """[N, C] to [N, C]."""
        return tensor.replace(self.module(tensor.features))


class Dropout(nn.Module):
    """nn.Dropout on single values, not on whole rows."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.module = nn.Dropout(p, inplace)

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """[N, C] to [N, C]."""
        return tensor.replace(self.module(tensor.features))


class Pruning(nn.Module):
    """The voxels that a mask keeps, at the same tensor stride, with their features.

    Layers at larger strides make their voxels of those that are left; transposed ones still return
    to all finer voxels.
    """

    def forward(self, tensor: SparseTensor, mask: Tensor) -> SparseTensor:
        """[N, C] and bool [N], a value for each row of the features, to [M, C].

        Raises:
            InputError: a mask of another shape, type or device.
        """
        return tensor.keep(mask)


class Interpolation(nn.Module):
    """Features at any places between voxels: `sparsepipe.engine.interpolation.interpolate`."""

    def forward(self, tensor: SparseTensor, places: Tensor) -> Tensor:
        """[N, C] and floating point [M, 4] = (batch, x, y, z) to a plain tensor [M, C]."""
        return interpolate(tensor, places)
