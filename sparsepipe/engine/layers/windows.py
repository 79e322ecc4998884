"""What convolutions and poolings share: a kernel, and the kernel map that it makes between
voxels."""

from torch import nn

from sparsepipe.engine.kernel_map import Kernel, KernelMap
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError


class Windowed(nn.Module):
    """The base of the layers that have a kernel size, a stride and a dilation: convolutions and
    poolings. The three are whole numbers from 1 on, the same along x, y and z.

    Raises:
        InputError: a size, stride or dilation that makes no sense.
    """

    def __init__(self, kernel_size: int, stride: int, dilation: int) -> None:
        super().__init__()
        Kernel(kernel_size, dilation, 1, stride)  # refuses what makes no sense
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation

    def downward(self, tensor: SparseTensor) -> tuple[int, KernelMap]:
        """The tensor stride of the layer's output, which is `stride` times the input's, and the
        kernel map from the input's voxels to the output's. Both are made on first use."""
        fine = tensor.tensor_stride
        kernel = Kernel(self.kernel_size, self.dilation, fine, fine * self.stride)
        return tensor.maps.coarsen(fine, self.stride), tensor.maps.kernel_map(kernel)

    def upward(self, tensor: SparseTensor) -> tuple[int, KernelMap]:
        """What `downward` returns, for a transposed layer: the output's tensor stride is the
        input's divided by `stride`.

        Raises:
            InputError: the stride does not divide the input's, or no earlier layer made the
                voxels of the output.
        """
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
        """The sizes that printing the layer shows."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}"
