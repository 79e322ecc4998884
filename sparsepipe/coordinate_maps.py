"""What all tensors of one forward pass share: their voxels at every stride, and the kernel maps."""

import torch
from torch import Tensor

from sparsepipe.coordinates import coarsened, sample_starts, unpack
from sparsepipe.kernel_map import Kernel, KernelMap, build
from systems.schema import InputError


class CoordinateMaps:
    """One set of voxels per tensor stride: those of the first tensor, and what is derived from it.

    Stride 0 is what global pooling leaves: one row for each sample, at (batch, 0, 0, 0).
    """

    def __init__(self, keys: Tensor, stride: int, batch_size: int) -> None:
        """`keys` int64 [N], sorted and distinct, at tensor stride `stride`."""
        self.batch_size = batch_size
        self._keys = {stride: keys}
        self._kernel_maps: dict[Kernel, KernelMap] = {}
        self._sizes: dict[int, list[int]] = {}

    def keys(self, stride: int) -> Tensor:
        """int64 [N], sorted and distinct.

        Raises:
            InputError: no tensor of this stride was made yet.
        """
        if stride not in self._keys:
            known = ", ".join(map(str, sorted(self._keys)))
            raise InputError(
                f"no voxels at tensor stride {stride} (there are: {known}): a transposed "
                "convolution returns to voxels that a strided layer came from"
            )
        return self._keys[stride]

    def coordinates(self, stride: int) -> Tensor:
        """int32 [N, 4] = (batch, x, y, z), sorted."""
        return unpack(self.keys(stride))

    def coarsen(self, stride: int, factor: int) -> int:
        """Make the voxels at `stride` x `factor`, at floor(c / t) * t; return that stride."""
        coarse = stride * factor
        if coarse not in self._keys:
            self._keys[coarse] = coarsened(self.keys(stride), coarse)
        return coarse

    def pool(self, stride: int) -> int:
        """Make the rows of global pooling, one for each sample; return their stride, 0."""
        if 0 not in self._keys:
            starts = sample_starts(self.batch_size, self.keys(stride).device)[:-1]
            self._keys[0] = starts - sample_starts(1, starts.device)[0]
        return 0

    def sizes(self, stride: int) -> list[int]:
        """Rows of each sample, [batch_size]; 0 for an empty one."""
        if stride not in self._sizes:
            keys = self.keys(stride)
            starts = torch.searchsorted(keys, sample_starts(self.batch_size, keys.device))
            self._sizes[stride] = starts.diff().tolist()
        return self._sizes[stride]

    def kernel_map(self, kernel: Kernel, *, transposed: bool = False) -> KernelMap:
        """The map from fine to coarse voxels, or, transposed, from coarse to fine ones.

        Raises:
            InputError: see `keys`.
        """
        if kernel not in self._kernel_maps:
            fine, coarse = self.keys(kernel.fine_stride), self.keys(kernel.coarse_stride)
            self._kernel_maps[kernel] = build(fine, coarse, kernel)
        kernel_map = self._kernel_maps[kernel]
        return kernel_map.transpose if transposed else kernel_map
