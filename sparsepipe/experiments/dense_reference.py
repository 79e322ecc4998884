"""Dense convolution at a sparse tensor's voxels: the reference for sparse convolution.

The tensor is written into a dense volume with a margin; nn.Conv3d runs on the volume, and its
output is read where voxels are.
"""

import torch.nn.functional as F
from torch import Tensor

from sparsepipe.engine.tensor import SparseTensor


def dense_convolution(
    tensor: SparseTensor, kernel: Tensor, size: int, stride: int, dilation: int, sites: Tensor
) -> Tensor:
    """Return what nn.Conv3d gives at the voxels `sites` [M, 4], for a tensor of stride 1: [M,
    Cout]."""
    lead = size // 2 * dilation if size % 2 else 0
    cells, origin = _grid(tensor, 1, stride, size * dilation, lead)
    output = F.conv3d(
        cells, _weight(kernel, size).transpose(0, 1), stride=stride, dilation=dilation
    )
    return _rows(output, sites, origin + lead, stride)


def dense_transposed(
    tensor: SparseTensor, kernel: Tensor, size: int, dilation: int, sites: Tensor
) -> Tensor:
    """Return what nn.ConvTranspose3d gives at the voxels `sites` [M, 4] of stride 1: [M, Cout]."""
    stride = tensor.tensor_stride
    assert isinstance(stride, int)
    lead = size // 2 * dilation if size % 2 else 0
    cells, origin = _grid(tensor, stride, stride, size * dilation, 0)
    output = F.conv_transpose3d(cells, _weight(kernel, size), stride=stride, dilation=dilation)
    return _rows(output, sites, origin - lead, 1)


def _grid(
    tensor: SparseTensor, step: int, align: int, margin: int, lead: int
) -> tuple[Tensor, Tensor]:
    """The tensor as a volume [B, C, X, Y, Z] with a margin, and the coordinates of its corner.

    The corner, int32 [3], is a multiple of `align` less `lead`; cells are `step` apart.
    """
    coordinates = tensor.coordinates
    low = coordinates[:, 1:].amin(0) - margin
    low = low - low.remainder(align) - lead
    index = (coordinates[:, 1:] - low).div(step, rounding_mode="floor")
    shape = (index.amax(0) + 2 * margin + align + 2).tolist()
    cells = tensor.features.new_zeros(tensor.batch_size, *shape, tensor.channels)
    places = (coordinates[:, 0].long(), *index.long().unbind(1))
    return cells.index_put(places, tensor.features).movedim(-1, 1), low


def _weight(kernel: Tensor, size: int) -> Tensor:
    """A kernel [K, Cin, Cout], in which x varies fastest, in the form [Cin, Cout, x, y, z]."""
    return kernel.reshape(size, size, size, *kernel.shape[-2:]).permute(3, 4, 2, 1, 0)


def _rows(cells: Tensor, sites: Tensor, origin: Tensor, step: int) -> Tensor:
    """The volume's features at the voxels `sites`; cells are `step` apart from `origin` on."""
    index = (sites[:, 1:] - origin).div(step, rounding_mode="floor").long()
    return cells.movedim(1, -1)[(sites[:, 0].long(), *index.unbind(1))]
