"""What convolutions and poolings share: a kernel, and the kernel map that it makes between
voxels."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from sparsepipe.engine.axes import Axes, axes, each, quotient, times
from sparsepipe.engine.coordinate_maps import CoordinateMaps
from sparsepipe.engine.foresight import foresee
from sparsepipe.engine.kernel import Kernel, shape_of
from sparsepipe.engine.kernel_map import KernelMap, build
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError


class Window(NamedTuple):
    """Where the outputs of a layer lie, and which inputs meet them."""

    maps: CoordinateMaps
    tensor_stride: Axes
    kernel_map: KernelMap


@functools.lru_cache(maxsize=1024)
def _kernel(*sizes: Any) -> Kernel:
    """The kernel of these sizes, which is checked once."""
    return Kernel(*sizes)


class Windowed(nn.Module):
    """The base of the layers that have a kernel size, a stride and a dilation: convolutions and
    poolings. The three are whole numbers from 1 on, or tuples of one for each axis.

    Raises:
        InputError: a size, stride, dilation or shape that makes no sense.
    """

    def __init__(
        self, kernel_size: Any, stride: Any, dilation: Any, shape: Any, dimension: int | None = None
    ) -> None:
        """`shape` is that of `sparsepipe.engine.kernel`. `dimension`, the number of axes, is that
        of the input where it is None and all sizes are one number."""
        super().__init__()
        self.shape = shape_of(shape)
        sizes = {"kernel size": kernel_size, "stride": stride, "dilation": dilation}
        for name, size in sizes.items():
            if isinstance(size, Sequence):
                dimension = dimension or len(size)
                each(tuple(size), dimension, name)  # raises an error for more or fewer numbers
        if isinstance(self.shape, tuple):
            dimension = dimension or len(self.shape[0])
        self.kernel_size, self.stride, self.dilation = (axes(v, k) for k, v in sizes.items())
        self.dimension = dimension
        self.kernel_at(1, self.stride, dimension or 3)  # refuses what makes no sense

    def kernel_at(self, fine: Axes, coarse: Axes, dimension: int) -> Kernel:
        """The layer's kernel between two tensor strides."""
        if self.dimension not in (None, dimension):
            raise InputError(
                f"voxels of {dimension} axes into {self}: give coordinates [N, {self.dimension} + "
                f"1], or dimension={dimension} to the layer"
            )
        return _kernel(self.kernel_size, self.dilation, fine, coarse, self.shape, dimension)

    def stride_of_output(self, tensor: SparseTensor) -> Axes:
        """The tensor stride of the layer's output."""
        return times(axes(tensor.tensor_stride), self.stride)

    def downward(self, tensor: SparseTensor, at: SparseTensor | None = None) -> Window:
        """The outputs at `stride` times the tensor stride of the input, and the kernel map to them.
        Both are made on first use. With `at` the outputs are the voxels of that tensor.

        Raises:
            InputError: `at` has another tensor stride, or is of other samples.
        """
        maps, fine = tensor.maps, axes(tensor.tensor_stride)
        coarse = times(fine, self.stride)
        kernel = self.kernel_at(fine, coarse, tensor.dimension)
        self._check_at(tensor, at, coarse)
        foresee(self, maps)
        if at is None or at.maps is maps:
            maps.coarsen(fine, self.stride)
            return Window(maps, coarse, maps.kernel_map(kernel))
        return Window(at.maps, coarse, build(tensor.keys, at.keys, kernel))

    def upward(self, tensor: SparseTensor, at: SparseTensor | None = None) -> Window:
        """What `downward` returns, for a transposed layer: the output's tensor stride is the
        input's divided by `stride`.

        Raises:
            InputError: the stride does not divide the input's, or no earlier layer made the
                voxels of the output; or `at` has another tensor stride, or is of other samples.
        """
        kernel = self.upward_kernel(tensor)
        fine = kernel.fine_stride
        self._check_at(tensor, at, fine)
        foresee(self, tensor.maps)
        if at is None or at.maps is tensor.maps:
            return Window(tensor.maps, fine, tensor.maps.kernel_map(kernel, transposed=True))
        return Window(at.maps, fine, build(at.keys, tensor.keys, kernel).transpose)

    def _check_at(self, tensor: SparseTensor, at: SparseTensor | None, stride: Axes) -> None:
        """Raise InputError if a layer cannot put its outputs at the voxels of `at`."""
        if at is None:
            return
        if axes(at.tensor_stride) != stride or at.batch_size != tensor.batch_size:
            raise InputError(
                f"outputs at {at} of {self} on {tensor}: give a tensor of the same samples at "
                f"tensor stride {stride}"
            )

    def upward_kernel(self, tensor: SparseTensor) -> Kernel:
        """The kernel of a transposed layer, or InputError if the stride does not divide the
        input's."""
        coarse = axes(tensor.tensor_stride)
        fine = quotient(coarse, self.stride)
        if fine is None:
            raise InputError(
                f"a transposed layer of stride {self.stride} at tensor stride {coarse}: "
                "give a stride that divides it"
            )
        return self.kernel_at(fine, coarse, tensor.dimension)

    def extra_repr(self) -> str:
        """The sizes that printing the layer shows."""
        sizes = f"kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}"
        if self.shape != "cube":
            sizes += f", shape={self.shape!r}"
        return sizes if self.dimension in (None, 3) else f"{sizes}, dimension={self.dimension}"
