"""A network as a user of the library writes it, for tests of plans, profiles and pipelines."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import sparsepipe.engine.tensor
from sparsepipe.engine import layers as sp
from sparsepipe.engine.tensor import SparseTensor, cat


class Unit(nn.Sequential):
    """A convolution, its normalisation and its activation."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        convolution = sp.Convolution(inputs, outputs, size, stride)
        super().__init__(convolution, sp.BatchNorm(outputs), sp.ReLU())


class Halving(sp.Convolution):
    """A layer that somebody derived from one of ours."""

    def forward(self, tensor: SparseTensor, at: SparseTensor | None = None) -> SparseTensor:
        assert tensor.channels == self.in_channels  # a value that torch.fx could not give
        return super().forward(tensor, at)


class OwnUNet(nn.Module):
    """As a user writes it: our layers and functions, PyTorch's on features, an option."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = Unit(2, width)
        self.down1, self.middle = Halving(width, 2 * width, 2, 2), Unit(2 * width, 2 * width)
        self.down2, self.deep = Unit(2 * width, 4 * width, 2, 2), Unit(4 * width, 4 * width)
        self.up1 = sp.ConvolutionTranspose(4 * width, 2 * width, 2, 2)
        self.decode1 = Unit(4 * width, 2 * width)
        self.up0 = sp.PoolingTranspose(2, 2)
        self.decode0 = Unit(4 * width, width)
        self.gate = nn.Linear(width, width)
        self.out = sp.Convolution(width, 5, 1, bias=True)

    def forward(self, x: Any, scale: float | None = None, *, shift: bool = False) -> Any:
        fine = self.first(x)
        middle = self.middle(self.down1(fine))
        deep = self.deep(self.down2(middle))
        if scale is not None:
            deep = deep.replace(deep.features * scale)
        decoded = self.decode1(cat([self.up1(deep), middle]))
        joined = sparsepipe.engine.tensor.cat((self.up0(decoded), fine, fine + fine))
        decoded = self.decode0(joined)
        gated = torch.sigmoid(self.gate(F.relu(decoded.features)))
        return self.out(decoded.replace(decoded.features * gated))
