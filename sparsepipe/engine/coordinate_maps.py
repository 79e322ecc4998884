"""Coordinate maps: the voxels at every tensor stride, and the kernel maps between them.

A coordinate map is the sorted list of the keys of all voxels at one tensor stride. A voxel's place
in the list is the number of its row, so the list maps rows to coordinates, and a search in it maps
coordinates to rows. A strided layer makes the list of the next stride by rounding coordinates down,
and a transposed layer goes back to the list that the strided one came from. Therefore all tensors
of a forward pass share one object, which keeps the lists, and the kernel maps between them:

    stride 1    (0,0,0)  (0,0,1)  (0,0,2)  (0,3,2)      rows 0 1 2 3: the user's voxels
                   |        |        |        |
                   +--------+        |        |
                   |                 |        |
    stride 2    (0,0,0)           (0,0,2)  (0,2,2)      rows 0 1 2: made by the first strided layer
                   |                 |        |
                   +-----------------+--------+
                   |
    stride 4    (0,0,0)                                 row 0: made by the second
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from sparsepipe.engine.coordinates import (
    batch_size_of,
    check_stride,
    coarsened,
    pack,
    sample_displacement,
    sample_starts,
    unpack,
)
from sparsepipe.engine.kernel_map import Kernel, KernelMap, build
from sparsepipe.engine.quantize import merged
from sparsepipe.engine.row_order import RowOrder, row_order
from systems.schema import InputError

Duplicates = Literal["refuse", "mean", "first"]
"""What happens to rows of equal coordinates: an error, or one row with their mean or the first."""


class CoordinateMaps:
    """The voxels of some samples at every tensor stride: those of a first tensor, and those that
    layers derive from them, with the kernel maps between them.

    Stride 0 is what global pooling leaves: one row for each sample, at (batch, 0, 0, 0).
    """

    def __init__(
        self, keys: Tensor, stride: int, batch_size: int, order: RowOrder | None = None
    ) -> None:
        """Begin with the voxels at one stride.

        Args:
            keys: int64 [N], sorted and distinct.
            stride: their tensor stride.
            batch_size: the number of samples, empty ones included.
            order: the order in which a user gave the rows; None if a layer made them.
        """
        self.batch_size = batch_size
        self._keys = {stride: keys}
        self._orders = {} if order is None else {stride: order}
        self._kernel_maps: dict[Kernel, KernelMap] = {}
        self._sizes: dict[int, list[int]] = {}

    @property
    def strides(self) -> tuple[int, ...]:
        """The tensor strides at which voxels have been made, ascending."""
        return tuple(sorted(self._keys))

    def add(self, stride: int, keys: Tensor) -> None:
        """Add voxels of the same samples at a stride, which somebody else has made. If there are
        voxels at that stride already, these stay, since tensors of one stride share the object."""
        self._keys.setdefault(stride, keys)

    def keys(self, stride: int) -> Tensor:
        """The keys of the voxels at a stride, int64 [N], sorted and distinct.

        Raises:
            InputError: no voxels have been made at this stride.
        """
        if stride not in self._keys:
            made = ", ".join(map(str, self.strides))
            raise InputError(
                f"no voxels at tensor stride {stride} (there are: {made}): a transposed "
                "convolution returns to voxels that a strided layer came from"
            )
        return self._keys[stride]

    def check(self, stride: int, features: Tensor) -> None:
        """Raise InputError if features are not [N, C] for the N voxels at a stride."""
        rows = len(self.keys(stride))
        if features.ndim != 2 or len(features) != rows:
            raise InputError(f"features {list(features.shape)} for {rows} voxels: give [{rows}, C]")

    def coordinates(self, stride: int) -> Tensor:
        """The coordinates of the voxels at a stride, int32 [N, 4] = (batch, x, y, z), sorted."""
        return unpack(self.keys(stride))

    def order(self, stride: int) -> RowOrder | None:
        """The order in which a user gave the rows at a stride; None for rows that layers made,
        which are sorted."""
        return self._orders.get(stride)

    def sorted(self, stride: int, features: Tensor) -> Tensor:
        """Bring the features [N, C] of a tensor at a stride into the order of the keys."""
        order = self.order(stride)
        return features if order is None else order.sorted(features)

    def unsorted(self, stride: int, rows: Tensor) -> Tensor:
        """Bring rows [N, C] from the order of the keys into that of a tensor's features. It undoes
        `sorted`."""
        order = self.order(stride)
        return rows if order is None else order.unsorted(rows)

    def coarsen(self, stride: int, factor: int) -> int:
        """Make the voxels at the coarser stride t = `stride` x `factor`, which are floor(c / t) * t
        for the voxels c at `stride`. Returns t."""
        coarse = stride * factor
        if coarse not in self._keys:
            self._keys[coarse] = coarsened(self.keys(stride), coarse)
        return coarse

    def pool(self, stride: int) -> int:
        """Make the rows of global pooling, one for each sample. Returns their stride, 0."""
        if 0 not in self._keys:
            self._keys[0] = pooled_keys(self.batch_size, self.keys(stride).device)
        return 0

    def starts(self, stride: int) -> Tensor:
        """Where the rows of each sample start at a stride, int32 [batch size + 1]: sample b has the
        rows from starts[b] to before starts[b + 1]."""
        keys = self.keys(stride)
        edges = sample_starts(self.batch_size, keys.device)
        return torch.searchsorted(keys, edges, out_int32=True)

    def sizes(self, stride: int) -> list[int]:
        """The number of rows of each sample at a stride, [batch_size]; 0 for an empty sample."""
        if stride not in self._sizes:
            self._sizes[stride] = self.starts(stride).diff().tolist()
        return self._sizes[stride]

    def rows(self, stride: int, samples: range) -> slice:
        """The slice of the rows at a stride that belong to some consecutive samples."""
        sizes = self.sizes(stride)
        first = sum(sizes[: samples.start])
        return slice(first, first + sum(sizes[samples.start : samples.stop]))

    def take(self, samples: range) -> "CoordinateMaps":
        """The maps of some consecutive samples alone, which are numbered from 0 again."""
        earlier = sample_displacement(samples.start)
        parts = {s: self._keys[s][self.rows(s, samples)] - earlier for s in self._keys}
        return _of_keys(parts, len(samples))

    def keep(self, stride: int, mask: Tensor) -> "CoordinateMaps":
        """The maps after pruning at a stride.

        They have the voxels at `stride` for which `mask`, bool [N] in the order of a tensor's
        features, is true; all finer voxels; and the kernel maps between finer ones. Coarser voxels
        are left out: later layers make them from what was kept.
        """
        keys, sorted_order = row_order(self.unsorted(stride, self.keys(stride))[mask])
        order = self.order(stride)
        order = None if order is None else order.kept(mask, sorted_order.sorting)
        kept = CoordinateMaps(keys, stride, self.batch_size, order)
        for finer in self.strides:
            if 0 < finer < stride and stride % finer == 0:
                kept.add(finer, self._keys[finer])
                if finer in self._orders:
                    kept._orders[finer] = self._orders[finer]
        kept._kernel_maps = {
            kernel: kernel_map
            for kernel, kernel_map in self._kernel_maps.items()
            if {kernel.fine_stride, kernel.coarse_stride} <= set(kept.strides) - {stride}
        }
        return kept

    def to(self, device: torch.device) -> "CoordinateMaps":
        """Move the voxels to a device. Kernel maps are made there again when they are needed."""
        keys = {stride: keys.to(device) for stride, keys in self._keys.items()}
        moved = _of_keys(keys, self.batch_size)
        moved._orders = {stride: order.to(device) for stride, order in self._orders.items()}
        return moved

    @staticmethod
    def join(parts: Sequence["CoordinateMaps"]) -> "CoordinateMaps":
        """Join the samples of several maps, one after the other, at the strides that all of them
        have."""
        strides = set.intersection(*(set(part.strides) for part in parts))
        keys: dict[int, list[Tensor]] = {stride: [] for stride in sorted(strides)}
        samples = 0
        for part in parts:
            for stride in keys:
                keys[stride].append(part.keys(stride) + sample_displacement(samples))
            samples += part.batch_size
        return _of_keys({stride: torch.cat(pieces) for stride, pieces in keys.items()}, samples)

    def kernel_map(self, kernel: Kernel, *, transposed: bool = False) -> KernelMap:
        """The kernel map from fine to coarse voxels, or from coarse to fine ones if `transposed`.
        It is made on first use and kept.

        Raises:
            InputError: no voxels have been made at one of the kernel's strides.
        """
        if kernel not in self._kernel_maps:
            fine, coarse = self.keys(kernel.fine_stride), self.keys(kernel.coarse_stride)
            self._kernel_maps[kernel] = build(fine, coarse, kernel)
        kernel_map = self._kernel_maps[kernel]
        return kernel_map.transpose if transposed else kernel_map


def pooled_keys(batch_size: int, device: torch.device) -> Tensor:
    """The keys of the rows of global pooling, which lie at (batch, 0, 0, 0): int64 [batch_size]."""
    return torch.arange(batch_size, device=device) * sample_displacement(1)


def _of_keys(keys: dict[int, Tensor], batch_size: int) -> CoordinateMaps:
    """Maps with these keys at each stride, and no order of rows."""
    (stride, first), *others = keys.items()
    maps = CoordinateMaps(first, stride, batch_size)
    for other_stride, other_keys in others:
        maps.add(other_stride, other_keys)
    return maps


def maps_of(
    features: Tensor,
    coordinates: Tensor | None,
    stride: int,
    batch_size: int | None,
    duplicates: Duplicates,
) -> tuple[Tensor, CoordinateMaps]:
    """Check the arguments of `SparseTensor` and merge rows of equal coordinates.

    Returns:
        The features [N, C] and the maps of their voxels.

    Raises:
        InputError: as `SparseTensor` does.
    """
    if duplicates not in get_args(Duplicates):
        raise InputError(f"duplicates = {duplicates!r}: give 'refuse', 'mean' or 'first'")
    coordinates = _checked(features, coordinates)
    keys, order = row_order(pack(coordinates))
    check_stride(coordinates, stride)
    batch_size = batch_size_of(coordinates, batch_size)
    if len(keys) < len(features):
        if duplicates == "refuse":
            raise InputError(
                f"{len(features) - len(keys)} of {len(features)} coordinates are duplicates: merge "
                "them with sparsepipe.engine.quantize.sparse_quantize, or give "
                "duplicates='mean' or 'first'"
            )
        assert order.inverse is not None  # nothing was pruned
        features = merged(features, order.order, order.inverse, duplicates == "mean")
    return features, CoordinateMaps(keys, stride, batch_size, order)


def _checked(features: Tensor, coordinates: Tensor | None) -> Tensor:
    """The coordinates, or InputError if they or the features have a wrong type, shape or device."""
    for name, values in (("features", features), ("coordinates", coordinates)):
        if not isinstance(values, Tensor):
            raise InputError(f"{name} are a {type(values).__name__}: give a torch.Tensor")
    assert coordinates is not None
    if features.ndim != 2 or not features.is_floating_point():
        raise InputError(
            f"features are {features.dtype} {list(features.shape)}: give floating point [N, C]"
        )
    if len(features) != len(coordinates):
        raise InputError(
            f"{len(features)} rows of features, {len(coordinates)} of coordinates: give one each"
        )
    if features.device != coordinates.device:
        raise InputError(
            f"features on {features.device}, coordinates on {coordinates.device}: "
            "move them to one device"
        )
    return coordinates
