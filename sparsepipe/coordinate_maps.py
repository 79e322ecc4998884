"""What all tensors of one forward pass share: their voxels at every stride, and the kernel maps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsepipe.coordinates import coarsened, sample_displacement, sample_starts, unpack
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

    @property
    def strides(self) -> tuple[int, ...]:
        """The tensor strides at which there are voxels, ascending."""
        return tuple(sorted(self._keys))

    def add(self, stride: int, keys: Tensor) -> None:
        """The same clouds' voxels at a stride, as somebody else made them, unless they are there:
        tensors of one stride share the very object."""
        self._keys.setdefault(stride, keys)

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
            self._keys[0] = pooled_keys(self.batch_size, self.keys(stride).device)
        return 0

    def derive(self, stride: int) -> None:
        """Make the voxels at `stride`, as `coarsen` does, of the finer ones that there are.

        Raises:
            InputError: there are none that they could be made of.
        """
        finer = [known for known in self.strides if known and stride % known == 0]
        if stride not in self._keys and finer:
            self.coarsen(finer[-1], stride // finer[-1])
        self.keys(stride)

    def sizes(self, stride: int) -> list[int]:
        """Rows of each sample, [batch_size]; 0 for an empty one."""
        if stride not in self._sizes:
            keys = self.keys(stride)
            starts = torch.searchsorted(keys, sample_starts(self.batch_size, keys.device))
            self._sizes[stride] = starts.diff().tolist()
        return self._sizes[stride]

    def rows(self, stride: int, samples: range) -> slice:
        """Where the rows of some consecutive samples are."""
        sizes = self.sizes(stride)
        first = sum(sizes[: samples.start])
        return slice(first, first + sum(sizes[samples.start : samples.stop]))

    def take(self, samples: range) -> "CoordinateMaps":
        """The voxels of some consecutive samples, which are numbered from 0 on."""
        earlier = sample_displacement(samples.start)
        parts = {s: self._keys[s][self.rows(s, samples)] - earlier for s in self._keys}
        return _of_keys(parts, len(samples))

    @staticmethod
    def join(parts: Sequence["CoordinateMaps"]) -> "CoordinateMaps":
        """The samples of all parts, one after the other, at the strides that all parts have."""
        strides = set.intersection(*(set(part.strides) for part in parts))
        keys: dict[int, list[Tensor]] = {stride: [] for stride in sorted(strides)}
        samples = 0
        for part in parts:
            for stride in keys:
                keys[stride].append(part.keys(stride) + sample_displacement(samples))
            samples += part.batch_size
        return _of_keys({stride: torch.cat(pieces) for stride, pieces in keys.items()}, samples)

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


def pooled_keys(batch_size: int, device: torch.device) -> Tensor:
    """int64 [batch_size]: the rows of global pooling, at (batch, 0, 0, 0)."""
    return torch.arange(batch_size, device=device) * sample_displacement(1)


def _of_keys(keys: dict[int, Tensor], batch_size: int) -> CoordinateMaps:
    (stride, first), *others = keys.items()
    maps = CoordinateMaps(first, stride, batch_size)
    for other, of_other in others:
        maps.add(other, of_other)
    return maps
