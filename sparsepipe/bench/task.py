"""Tasks: what engines compute, on which voxels."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from sparsepipe.engine.kernel_map import Kernel
from sparsepipe.engine.tensor import SparseTensor

KERNEL = Kernel(size=3, dilation=1, fine_stride=1, coarse_stride=1)
"""The kernel of every layer."""
CLASSES = 40
"""The classes that networks tell apart."""

Kind = Literal["layer", "network", "maps"]
"""What a task is about."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The voxels of a batch of clouds, from 0 on along every axis, and what is computed on them: a
    layer, a network, or, without both, kernel maps alone."""

    coordinates: Tensor
    """int32 [N, 4], sorted."""
    batch_size: int
    shape: tuple[int, int, int]
    """How many cells the box around the voxels has along each axis."""
    channels: int = 0
    """Input and output channels of a layer, a 3x3x3 convolution; 0: no layer."""
    network: str = ""
    """The name of a network of `sparsepipe.models`; empty: no network."""

    def to(self, device: str) -> "Task":
        """The task with its voxels on a device."""
        return replace(self, coordinates=self.coordinates.to(device))

    @property
    def kind(self) -> Kind:
        """What it is about."""
        if self.network:
            return "network"
        return "layer" if self.channels else "maps"

    @property
    def device(self) -> torch.device:
        """Where the voxels are."""
        return self.coordinates.device

    @property
    def features(self) -> Tensor:
        """float32 [N, channels], the same for every engine; ones [N, 1] where there is no layer."""
        if not self.channels:
            return torch.ones(len(self.coordinates), 1, device=self.device)
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(len(self.coordinates), self.channels, generator=generator)
        return rows.to(self.device)

    @cached_property
    def pairs(self) -> int:
        """The pairs of voxels in the kernel map of a layer."""
        ones = torch.ones(len(self.coordinates), 1, device=self.device)
        return sum(SparseTensor(ones, self.coordinates).maps.kernel_map(KERNEL).counts)
