"""What all tensors of one forward pass share: their voxels at every stride, and the kernel maps."""

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


class CoordinateMaps:
    """One set of voxels per tensor stride: those of the first tensor, and what is derived from it.

    Stride 0 is what global pooling leaves: one row for each sample, at (batch, 0, 0, 0).
    """

    def __init__(
        self, keys: Tensor, stride: int, batch_size: int, order: RowOrder | None = None
    ) -> None:
        """`keys` int64 [N], sorted and distinct, at tensor stride `stride`; and the order in which
        somebody gave their rows, if anybody did."""
        self.batch_size = batch_size
        self._keys = {stride: keys}
        self._orders = {} if order is None else {stride: order}
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

    def check(self, stride: int, features: Tensor) -> None:
        """Refuse features that are not [voxels at `stride`, C] with InputError."""
        rows = len(self.keys(stride))
        if features.ndim != 2 or len(features) != rows:
            raise InputError(f"features {list(features.shape)} for {rows} voxels: give [{rows}, C]")

    def coordinates(self, stride: int) -> Tensor:
        """int32 [N, 4] = (batch, x, y, z), sorted."""
        return unpack(self.keys(stride))

    def order(self, stride: int) -> RowOrder | None:
        """The order in which somebody gave the rows at `stride`; None for rows that layers made,
        which are sorted."""
        return self._orders.get(stride)

    def sorted(self, stride: int, features: Tensor) -> Tensor:
        """The rows of a tensor's features in the order of the keys."""
        order = self.order(stride)
        return features if order is None else order.sorted(features)

    def unsorted(self, stride: int, rows: Tensor) -> Tensor:
        """Rows in the order of the keys in that of a tensor's features: undoes `sorted`."""
        order = self.order(stride)
        return rows if order is None else order.unsorted(rows)

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

    def starts(self, stride: int) -> Tensor:
        """int32 [batch size + 1]: sample b has the rows from starts[b] to before starts[b + 1]."""
        keys = self.keys(stride)
        edges = sample_starts(self.batch_size, keys.device)
        return torch.searchsorted(keys, edges, out_int32=True)

    def sizes(self, stride: int) -> list[int]:
        """Rows of each sample, [batch_size]; 0 for an empty one."""
        if stride not in self._sizes:
            self._sizes[stride] = self.starts(stride).diff().tolist()
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

    def keep(self, stride: int, mask: Tensor) -> "CoordinateMaps":
        """The voxels at `stride` for which `mask`, bool [N] in the order of a tensor's features, is
        true, and all finer ones, with the kernel maps between these. Coarser ones are made anew of
        what was kept."""
        keys, order = row_order(self.unsorted(stride, self.keys(stride))[mask])
        given = self.order(stride)
        named = None if given is None else given.kept(mask, order.sorting)
        kept = CoordinateMaps(keys, stride, self.batch_size, named)
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
        """The same voxels on a device; kernel maps are made there when they are needed."""
        keys = {stride: keys.to(device) for stride, keys in self._keys.items()}
        moved = _of_keys(keys, self.batch_size)
        moved._orders = {stride: order.to(device) for stride, order in self._orders.items()}
        return moved

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


def maps_of(
    features: Tensor,
    coordinates: Tensor | None,
    stride: int,
    batch_size: int | None,
    duplicates: Duplicates,
) -> tuple[Tensor, CoordinateMaps]:
    """Features [N, C] and their voxels, of what `SparseTensor` takes.

    Raises:
        InputError: see there.
    """
    if duplicates not in get_args(Duplicates):
        raise InputError(f"duplicates = {duplicates!r}: give 'refuse', 'mean' or 'first'")
    coordinates = _check_given(features, coordinates)
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


def _check_given(features: Tensor, coordinates: Tensor | None) -> Tensor:
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
