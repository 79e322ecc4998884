"""Poolings on sparse tensors: over the window of a kernel, or over all voxels of a sample."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sparsepipe.engine.axes import Axes
from sparsepipe.engine.kernel_map import KernelMap
from sparsepipe.engine.layers.windows import Windowed
from sparsepipe.engine.pooling import (
    average_of_samples,
    average_pool,
    max_of_samples,
    max_pool,
    sum_of_samples,
    sum_pool,
)
from sparsepipe.engine.tensor import SparseTensor


class _Pooling(Windowed):
    """The base of the poolings: [N, C] at tensor stride t becomes [M, C] at t x `stride`."""

    pool: Callable[[Tensor, KernelMap], Tensor]
    """Turns the rows [N, C] of the input into those of the output [M, C]."""

    def __init__(
        self,
        kernel_size: Any = 2,
        stride: Any = 2,
        dilation: Any = 1,
        *,
        shape: Any = "cube",
        dimension: int | None = None,
    ) -> None:
        """Sizes are whole numbers, or tuples of one for each axis. `shape` is that of a
        convolution; `dimension` is the number of axes that the input must have, or None."""
        super().__init__(kernel_size, stride, dilation, shape, dimension)

    def forward(self, tensor: SparseTensor, at: SparseTensor | None = None) -> SparseTensor:
        """Pool features [N, C] to [M, C]; with `at`, to the voxels of that tensor."""
        window = self.downward(tensor, at)
        rows = self.pool(tensor.rows, window.kernel_map)
        return tensor.on(window.maps, window.tensor_stride, rows)


class MaxPooling(_Pooling):
    """The largest value among the voxels that exist under the kernel, or NaN if one of them is NaN.
    `sparsepipe.engine.pooling.max_pool` says where gradients go."""

    pool = staticmethod(max_pool)


class AveragePooling(_Pooling):
    """The mean over the voxels that exist under the kernel. Places without a voxel do not count."""

    pool = staticmethod(average_pool)


class SumPooling(_Pooling):
    """The sum over the voxels that exist under the kernel."""

    pool = staticmethod(sum_pool)


class PoolingTranspose(_Pooling):
    """A `SumPooling` with inputs and outputs swapped, from tensor stride t to t / `stride`: a fine
    voxel gets the sum of those coarse voxels that it would be pooled to.

    With a stride as large as the kernel there is one such voxel, whose features are copied. This is
    what MinkowskiEngine 0.5.4 computes. (Its documentation says that the sum is divided by the
    number of voxels in it, but its code does not do that.)

    Raises:
        InputError: the stride does not divide t, or no earlier layer made voxels at t / stride.
    """

    def stride_of_output(self, tensor: SparseTensor) -> Axes:
        """The tensor stride of the layer's output."""
        return self.upward_kernel(tensor).fine_stride

    def forward(self, tensor: SparseTensor, at: SparseTensor | None = None) -> SparseTensor:
        """Copy or sum features [N, C] to [M, C] at the finer voxels; with `at`, at those of that
        tensor."""
        window = self.upward(tensor, at)
        rows = sum_pool(tensor.rows, window.kernel_map)
        return tensor.on(window.maps, window.tensor_stride, rows)


class GlobalMaxPooling(nn.Module):
    """The largest value of each channel in each sample: [N, C] becomes [batch size, C] at tensor
    stride 0, one row for each sample, in the order of the batch.

    The row of an empty sample is 0. NaN and gradients are handled as in `MaxPooling`.
    """

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """Pool features [N, C] to [batch size, C]."""
        rows = max_of_samples(tensor.rows, tensor.maps.starts(tensor.tensor_stride))
        return tensor.on(tensor.maps, tensor.maps.pool(tensor.tensor_stride), rows)


class GlobalAveragePooling(nn.Module):
    """The mean of each channel in each sample: [N, C] becomes [batch size, C] at tensor stride 0.
    The row of an empty sample is 0."""

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """Pool features [N, C] to [batch size, C]."""
        rows = average_of_samples(tensor.rows, tensor.maps.starts(tensor.tensor_stride))
        return tensor.on(tensor.maps, tensor.maps.pool(tensor.tensor_stride), rows)


class GlobalSumPooling(nn.Module):
    """The sum of each channel in each sample: [N, C] becomes [batch size, C] at tensor stride 0.
    The row of an empty sample is 0."""

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """Pool features [N, C] to [batch size, C]."""
        rows = sum_of_samples(tensor.rows, tensor.maps.starts(tensor.tensor_stride))
        return tensor.on(tensor.maps, tensor.maps.pool(tensor.tensor_stride), rows)
