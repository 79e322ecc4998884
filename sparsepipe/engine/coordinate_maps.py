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

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsepipe.engine import compiled_maps
from sparsepipe.engine.axes import Axes, axes, quotient, times
from sparsepipe.engine.coordinates import (
    can_be_stacked,
    coarsened,
    displacement,
    pack,
    pyramid,
    sample_displacement,
    sample_starts,
    unpack,
)
from sparsepipe.engine.foresight import make_tables
from sparsepipe.engine.kernel import Kernel
from sparsepipe.engine.kernel_map import Asked, KernelMap, build
from sparsepipe.engine.row_order import RowOrder, row_order
from systems.schema import InputError

AHEAD = 4
"""The strides whose voxels are made at once: as many as a U-Net has."""


class CoordinateMaps:
    """The voxels of some samples at every tensor stride: those of a first tensor, and those that
    layers derive from them, with the kernel maps between them.

    Stride 0 is what global pooling leaves: one row for each sample, at (batch, 0, 0, 0).
    """

    def __init__(
        self,
        keys: Tensor,
        stride: Any,
        batch_size: int,
        order: RowOrder | None = None,
        *,
        dimension: int = 3,
    ) -> None:
        """Begin with the voxels at one stride.

        Args:
            keys: int64 [N], sorted and distinct.
            stride: their tensor stride, one number or one for each axis, here and in all methods.
            batch_size: the number of samples, empty ones included.
            order: the order in which a user gave the rows; None if a layer made them.
            dimension: the number of axes of the voxels' grid.
        """
        stride = axes(stride, "tensor stride")
        self.batch_size, self.dimension = batch_size, dimension
        self._keys: dict[Axes, Tensor] = {stride: keys}
        self._orders: dict[Axes, RowOrder] = {} if order is None else {stride: order}
        self._kernel_maps: dict[Kernel, KernelMap] = {}
        self.asked: Asked = {}
        self._sizes: dict[Axes, list[int]] = {}
        self._ahead: dict[Axes, tuple[Tensor, Tensor]] = {}  # finer voxels, and what they become

    @property
    def strides(self) -> tuple[Axes, ...]:
        """The tensor strides at which voxels have been made, ascending."""
        return _ascending(self._keys)

    def add(self, stride: Any, keys: Tensor) -> None:
        """Add voxels of the same samples at a stride, which somebody else has made. If there are
        voxels at that stride already, these stay, since tensors of one stride share the object."""
        self._keys.setdefault(axes(stride), keys)

    def keys(self, stride: Any) -> Tensor:
        """The keys of the voxels at a stride, int64 [N], sorted and distinct.

        Raises:
            InputError: no voxels have been made at this stride.
        """
        stride = axes(stride)
        if stride not in self._keys:
            made = ", ".join(map(str, self.strides))
            raise InputError(
                f"no voxels at tensor stride {stride} (there are: {made}): a transposed "
                "convolution returns to voxels that a strided layer came from"
            )
        return self._keys[stride]

    def check(self, stride: Any, features: Tensor) -> None:
        """Raise InputError if features are not [N, C] for the N voxels at a stride."""
        rows = len(self.keys(stride))
        if features.ndim != 2 or len(features) != rows:
            raise InputError(f"features {list(features.shape)} for {rows} voxels: give [{rows}, C]")

    def coordinates(self, stride: Any) -> Tensor:
        """The coordinates of the voxels at a stride, int32 [N, 4] = (batch, x, y, z), sorted."""
        return unpack(self.keys(stride), self.dimension)

    def order(self, stride: Any) -> RowOrder | None:
        """The order in which a user gave the rows at a stride; None for rows that layers made,
        which are sorted."""
        return self._orders.get(axes(stride))

    def sorted(self, stride: Any, features: Tensor) -> Tensor:
        """Bring the features [N, C] of a tensor at a stride into the order of the keys."""
        order = self.order(stride)
        return features if order is None else order.sorted(features)

    def unsorted(self, stride: Any, rows: Tensor) -> Tensor:
        """Bring rows [N, C] from the order of the keys into that of a tensor's features. It undoes
        `sorted`."""
        order = self.order(stride)
        return rows if order is None else order.unsorted(rows)

    def coarsen(self, stride: Any, factor: Axes) -> Axes:
        """Make the voxels at the coarser stride t = `stride` x `factor`, which are floor(c / t) * t
        for the voxels c at `stride`. Returns t."""
        coarse = times(axes(stride), factor)
        if coarse not in self._keys:
            self._keys[coarse] = self._coarsened(self.keys(stride), coarse, factor)
        return coarse

    def _coarsened(self, keys: Tensor, coarse: Axes, factor: Axes) -> Tensor:
        """The voxels at the stride `coarse`, `factor` times that of `keys`. Where no C++ serves,
        those of the next strides are made with them, since networks coarsen again and again, and
        the host waits for the sizes of what is made."""
        found = compiled_maps.coarsened(keys, coarse, self.dimension)
        if found is not None:
            return found
        made = self._ahead.get(coarse)
        if made is not None and made[0] is keys:
            return made[1]
        if not can_be_stacked(coarse, self.dimension):
            return coarsened(keys, coarse, self.dimension)
        strides = [coarse]
        while len(strides) < AHEAD and can_be_stacked(
            following := times(strides[-1], factor), self.dimension
        ):
            strides.append(following)
        levels = pyramid(keys, strides, self.dimension)
        finer = [keys, *levels[:-1]]
        self._ahead |= dict(zip(strides, zip(finer, levels, strict=True), strict=True))
        return levels[0]

    def pool(self, stride: Any) -> int:
        """Make the rows of global pooling, one for each sample. Returns their stride, 0."""
        if 0 not in self._keys:
            device = self.keys(stride).device
            self._keys[0] = pooled_keys(self.batch_size, device, self.dimension)
        return 0

    def starts(self, stride: Any) -> Tensor:
        """Where the rows of each sample start at a stride, int32 [batch size + 1]: sample b has the
        rows from starts[b] to before starts[b + 1]."""
        keys = self.keys(stride)
        edges = sample_starts(self.batch_size, keys.device, self.dimension)
        return torch.searchsorted(keys, edges, out_int32=True)

    def sizes(self, stride: Any) -> list[int]:
        """The number of rows of each sample at a stride, [batch_size]; 0 for an empty sample."""
        stride = axes(stride)
        if stride not in self._sizes:
            self._sizes[stride] = self.starts(stride).diff().tolist()
        return self._sizes[stride]

    def rows(self, stride: Any, samples: range) -> slice:
        """The slice of the rows at a stride that belong to some consecutive samples."""
        sizes = self.sizes(stride)
        first = sum(sizes[: samples.start])
        return slice(first, first + sum(sizes[samples.start : samples.stop]))

    def take(self, samples: range) -> "CoordinateMaps":
        """The maps of some consecutive samples alone, which are numbered from 0 again."""
        earlier = sample_displacement(samples.start, self.dimension)
        parts = {s: self._keys[s][self.rows(s, samples)] - earlier for s in self._keys}
        return _of_keys(parts, len(samples), self.dimension)

    def keep(self, stride: Any, mask: Tensor) -> "CoordinateMaps":
        """The maps after pruning at a stride.

        They have the voxels at `stride` for which `mask`, bool [N] in the order of a tensor's
        features, is true; all finer voxels; and the kernel maps between finer ones. Coarser voxels
        are left out: later layers make them from what was kept.
        """
        keys, sorted_order = row_order(self.unsorted(stride, self.keys(stride))[mask])
        order = self.order(stride)
        order = None if order is None else order.kept(mask, sorted_order.sorting)
        return self._begun(axes(stride), keys, order)

    def generate(self, kernel: Kernel) -> tuple["CoordinateMaps", KernelMap]:
        """Make all voxels that a transposed layer can reach: v = u + o for all coarse voxels u and
        offsets o of the kernel.

        Returns:
            The maps with these voxels at the fine stride, and all finer voxels; coarser ones are
            left out, as after pruning. And the kernel map from the coarse voxels to them.
        """
        coarse = self.keys(kernel.coarse_stride)
        moves = torch.tensor([displacement(*o) for o in kernel.offsets], device=coarse.device)
        fine = torch.unique(coarse[:, None] + moves)
        pack(unpack(fine, self.dimension))  # refuses voxels beyond the limits
        maps = self._begun(kernel.fine_stride, fine, None)
        return maps, build(fine, coarse, kernel).transpose

    def unite(self, stride: Any, other: "CoordinateMaps") -> "CoordinateMaps":
        """The maps of the voxels at a stride together with those of other maps there, and of all
        finer voxels. They have as many samples as the larger of the two."""
        keys = torch.unique(torch.cat([self.keys(stride), other.keys(stride)]))
        united = self._begun(axes(stride), keys, None)
        united.batch_size = max(self.batch_size, other.batch_size)
        return united

    def _begun(self, stride: Axes, keys: Tensor, order: RowOrder | None) -> "CoordinateMaps":
        """Maps with other voxels at a stride; all finer voxels, and the kernel maps between finer
        ones, stay."""
        begun = CoordinateMaps(keys, stride, self.batch_size, order, dimension=self.dimension)
        for finer in self.strides:
            if finer != stride and quotient(stride, finer):
                begun.add(finer, self._keys[finer])
                if finer in self._orders:
                    begun._orders[finer] = self._orders[finer]
        begun._kernel_maps = {
            kernel: kernel_map
            for kernel, kernel_map in self._kernel_maps.items()
            if {kernel.fine_stride, kernel.coarse_stride} <= set(begun.strides) - {stride}
        }
        return begun

    def reach(self, strides: Iterable[Axes]) -> None:
        """Make the voxels at all of these strides for which there are finer ones."""
        for stride in _ascending(set(strides) - self._keys.keys()):
            finer = [s for s in self.strides if quotient(stride, s)]
            factor = quotient(stride, finer[-1]) if finer else None
            if factor is not None:
                self.coarsen(finer[-1], factor)

    def prepare(self, like: "CoordinateMaps") -> None:
        """Make all voxels and kernel maps that other maps have.

        A network that was called once on a tensor with the maps `like` then finds all that it needs
        here, and torch.compile all of it in one graph.
        """
        self.reach(like.strides)
        for kernel in like._kernel_maps:
            _ = self.kernel_map(kernel).transpose
        make_tables(self, like.asked)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "CoordinateMaps":
        """Move the voxels to a device. Kernel maps are made there again when they are needed."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "CoordinateMaps":
        """Copy the voxels to pinned memory of the host."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> "CoordinateMaps":
        """The same voxels where a function moves tensors."""
        keys = {stride: move(keys) for stride, keys in self._keys.items()}
        moved = _of_keys(keys, self.batch_size, self.dimension)
        moved._orders = {stride: order.moved(move) for stride, order in self._orders.items()}
        moved._sizes = dict(self._sizes)
        return moved

    @staticmethod
    def join(parts: Sequence["CoordinateMaps"]) -> "CoordinateMaps":
        """Join the samples of several maps, one after the other, at the strides that all of them
        have."""
        dimension, samples = parts[0].dimension, 0
        common = set.intersection(*(set(part.strides) for part in parts))
        keys: dict[Axes, list[Tensor]] = {s: [] for s in parts[0].strides if s in common}
        for part in parts:
            for stride in keys:
                keys[stride].append(part.keys(stride) + sample_displacement(samples, dimension))
            samples += part.batch_size
        joined = {stride: torch.cat(pieces) for stride, pieces in keys.items()}
        return _of_keys(joined, samples, dimension)

    def kernel_map(self, kernel: Kernel, *, transposed: bool = False) -> KernelMap:
        """The kernel map from fine to coarse voxels, or from coarse to fine ones if `transposed`.
        It is made on first use and kept.

        Raises:
            InputError: no voxels have been made at one of the kernel's strides.
        """
        if kernel not in self._kernel_maps:
            fine, coarse = self.keys(kernel.fine_stride), self.keys(kernel.coarse_stride)
            self._kernel_maps[kernel] = build(fine, coarse, kernel, self.asked)
        kernel_map = self._kernel_maps[kernel]
        return kernel_map.transpose if transposed else kernel_map


def pooled_keys(batch_size: int, device: torch.device, dimension: int = 3) -> Tensor:
    """The keys of the rows of global pooling, which lie at (batch, 0, 0, 0): int64 [batch_size]."""
    return torch.arange(batch_size, device=device) * sample_displacement(1, dimension)


def _ascending(strides: Iterable[Axes]) -> tuple[Axes, ...]:
    """Strides in ascending order."""
    return tuple(sorted(strides, key=lambda s: (s,) if isinstance(s, int) else s))


def _of_keys(keys: dict[Axes, Tensor], batch_size: int, dimension: int) -> CoordinateMaps:
    """Maps with these keys at each stride, and no order of rows."""
    (stride, first), *others = keys.items()
    maps = CoordinateMaps(first, stride, batch_size, dimension=dimension)
    for other_stride, other_keys in others:
        maps.add(other_stride, other_keys)
    return maps
