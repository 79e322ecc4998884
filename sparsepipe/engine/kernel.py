"""Kernels: at which offsets a layer looks, and between which tensor strides.

    cube of size 3          cross of size 3         offsets of your own
      x x x                     . x .                 . . x
      x o x                     x o x                 . o .           (o: the output's voxel)
      x x x                     . x .                 x . .

Weights are numbered as in MinkowskiEngine: in a cube x changes fastest; in a cross the middle comes
first, then the places along x, along y and along z, each from the lowest up; offsets of your own
stay in your order. Sizes may differ from axis to axis.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

from sparsepipe.engine.axes import Axes, axes, each, least, quotient, times
from sparsepipe.engine.coordinates import kernel_offsets, kernel_steps, packing
from systems.schema import InputError

Offset = tuple[int, ...]
Shape = Literal["cube", "cross"] | tuple[Offset, ...]
"""The places of a kernel's weights: all of a cube, those on its axes, or offsets of your own, in
steps of the dilation."""


def shape_of(value: Any) -> Shape:
    """A shape from its name, or from offsets: a list, array or tensor of whole numbers [K, axes].

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, str):
        if value not in ("cube", "cross"):
            raise InputError(f"kernel shape {value!r}: give 'cube', 'cross' or a list of offsets")
        return "cube" if value == "cube" else "cross"
    rows = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(rows, Iterable):
        offsets = [tuple(row) if isinstance(row, Iterable) else (row,) for row in rows]
        whole = all(isinstance(step, int) for offset in offsets for step in offset)
        if offsets and whole and len({len(offset) for offset in offsets}) == 1:
            if len(set(offsets)) < len(offsets):
                raise InputError(f"kernel offsets {offsets}: give each of them once")
            return tuple(offsets)
    raise InputError(f"kernel shape {value!r}: give 'cube', 'cross' or offsets [K, axes]")


def volume(size: Axes, shape: Shape, dimension: int) -> int:
    """The number of a kernel's weights.

    Raises:
        InputError: a cross of an even size, which has no middle.
    """
    if isinstance(shape, tuple):
        return len(shape)
    sizes = each(size, dimension, "kernel size")
    if shape == "cube":
        return prod(sizes)
    if any(length % 2 == 0 for length in sizes):
        raise InputError(f"a cross of kernel size {size}: give odd sizes, which have a middle")
    return 1 + sum(length - 1 for length in sizes)


@dataclass(frozen=True)
class Kernel:
    """The geometry of a kernel between the voxels at two tensor strides.

    Raises:
        InputError: one stride does not divide the other, or a number is too small or too large.
    """

    size: Axes
    """The number of weights along each axis. Offsets of your own do without."""
    dilation: Axes
    """The distance between neighbouring weights, in steps of the fine stride."""
    fine_stride: Axes
    """The tensor stride of the finer voxels; it divides `coarse_stride`."""
    coarse_stride: Axes
    """The tensor stride of the coarser voxels. It equals `fine_stride` in layers of stride 1."""
    shape: Shape = "cube"
    dimension: int = 3
    """The number of axes."""

    def __post_init__(self) -> None:
        for name in ("size", "dilation", "fine_stride", "coarse_stride"):
            object.__setattr__(self, name, axes(getattr(self, name), name))
            each(getattr(self, name), self.dimension, name.replace("_", " "))
        fine, coarse = self.fine_stride, self.coarse_stride
        if min(least(fine), least(coarse)) < 1 or quotient(coarse, fine) is None:
            raise InputError(
                f"no kernel joins tensor strides {fine} and {coarse}: "
                "one must divide the other, and neither be 0 (a globally pooled tensor)"
            )
        if least(self.size) < 1 or least(self.dilation) < 1:
            raise InputError(
                f"kernel size {self.size}, dilation {self.dilation}: give whole numbers from 1 on"
            )
        if isinstance(self.shape, tuple) and len(self.shape[0]) != self.dimension:
            raise InputError(
                f"kernel offsets of {len(self.shape[0])} numbers for {self.dimension} axes"
            )
        volume(self.size, self.shape, self.dimension)
        reach, limit = packing(self.dimension).reach, packing(self.dimension).limit
        if max(each(coarse, self.dimension)) > limit:
            raise InputError(
                f"tensor stride {coarse} is beyond the limit of coordinates, {limit}: take fewer "
                "or smaller strides"
            )
        if max(self.reach) > reach:
            raise InputError(
                f"kernel size {self.size} at dilation {self.dilation} and tensor stride "
                f"{fine} reaches beyond {reach} voxels: take a smaller one"
            )

    @property
    def strides(self) -> tuple[Axes, Axes]:
        """The fine and the coarse tensor stride."""
        return self.fine_stride, self.coarse_stride

    @property
    def spacing(self) -> Axes:
        """The distance between neighbouring weights, in voxels of the finest grid."""
        return times(self.dilation, self.fine_stride)

    @property
    def reach(self) -> tuple[int, ...]:
        """How far the kernel may reach along each axis, in voxels of the finest grid."""
        lengths = each(self.size, self.dimension)
        if isinstance(self.shape, tuple):
            lengths = tuple(max(map(abs, steps)) for steps in zip(*self.shape, strict=True))
        spacings = each(self.spacing, self.dimension)
        return tuple(length * space for length, space in zip(lengths, spacings, strict=True))

    @cached_property
    def offsets(self) -> tuple[Offset, ...]:
        """The offsets in the order of the weights, in voxels of the finest grid."""
        if self.shape == "cube":
            return tuple(kernel_offsets(self.size, self.spacing, self.dimension))
        spacings = each(self.spacing, self.dimension)
        return tuple(
            tuple(step * space for step, space in zip(offset, spacings, strict=True))
            for offset in (self._cross() if self.shape == "cross" else self.shape)
        )

    def _cross(self) -> list[Offset]:
        """The offsets of a cross, in steps of the dilation."""
        middle = (0,) * self.dimension
        arms = [
            (*middle[:axis], step, *middle[axis + 1 :])
            for axis, length in enumerate(each(self.size, self.dimension))
            for step in kernel_steps(length)
            if step
        ]
        return [middle, *arms]

    @property
    def symmetric(self) -> bool:
        """Whether the map is its own mirror image, read backwards: for each pair (v, u) under an
        offset, (u, v) is a pair under the opposite one, which is as far from the end as the first
        is from the start. Inputs and outputs must be the same voxels, and the sizes of the cube
        odd."""
        odd = all(length % 2 for length in each(self.size, self.dimension))
        return self.shape == "cube" and odd and self.fine_stride == self.coarse_stride
