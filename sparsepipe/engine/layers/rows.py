"""Layers that need no neighbours: each row of the features by itself, and rows that are
selected."""

from torch import Tensor, nn

from sparsepipe.engine.interpolation import interpolate
from sparsepipe.engine.precision import refuse_mixed_products
from sparsepipe.engine.tensor import SparseTensor, union


class Linear(nn.Module):
    """nn.Linear on every row. Its parameters are `linear.weight` [Cout, Cin] and `linear.bias`
    [Cout].

    Raises:
        InputError: the parameters have another dtype than the features, and torch.autocast is off.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """Multiply features [N, Cin] to [N, Cout]."""
        refuse_mixed_products(tensor.features, self.linear.weight)
        return tensor.replace(self.linear(tensor.features))


class Elementwise(nn.Module):
    """Any module of torch that works on rows [N, C], such as nn.GELU(), nn.PReLU(C) or
    nn.Softmax(dim=1). It is named `module`, as in MinkowskiEngine, and so are its parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, tensor: SparseTensor) -> SparseTensor:
        """Turn features [N, C] into [N, C']."""
        return tensor.replace(self.module(tensor.features))


class ReLU(Elementwise):
    """max(x, 0) of every value x."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(nn.ReLU(inplace))


class Dropout(Elementwise):
    """nn.Dropout, which drops single values and not whole rows."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__(nn.Dropout(p, inplace))


class Pruning(nn.Module):
    """Keeps the voxels of a mask, with their features, at the same tensor stride, and drops the
    others.

    Later layers at larger strides make their voxels from those that are left. Transposed layers
    still return to all finer voxels.
    """

    def forward(self, tensor: SparseTensor, mask: Tensor) -> SparseTensor:
        """Keep of the features [N, C] the M rows where `mask`, bool [N], is true.

        Raises:
            InputError: the mask has another shape, dtype or device.
        """
        return tensor.keep(mask)


class Interpolation(nn.Module):
    """Features at any places between voxels, as `sparsepipe.engine.interpolation.interpolate`
    says."""

    def forward(self, tensor: SparseTensor, places: Tensor) -> Tensor:
        """Interpolate features [N, C] at `places`, floating point [M, 4] = (batch, x, y, z).
        Returns a plain tensor [M, C]."""
        return interpolate(tensor, places)


class Union(nn.Module):
    """The sum of tensors on the voxels of all of them, as `sparsepipe.engine.tensor.union` says."""

    def forward(self, *tensors: SparseTensor) -> SparseTensor:
        """Sum tensors of C channels."""
        return union(tensors)
