"""Tables of kernel maps that are made together, before layers ask for them one after the other.

A GPU makes many tables in as many launches as one. But layers ask for maps as they are called, and
no layer knows what comes after it. Networks, though, ask the same of every input. So maps note
which of their tables somebody used, a layer remembers what was noted on the last maps that it saw,
and the first layer that is called on new maps has all of that made at once:

    first step     conv0: a table   conv1: a table   ...   gradient of conv1: a table
    next step      conv0: all of these tables

A table that nobody used the last time is not made ahead, and one that is new is made when it is
asked for. On a CPU no tables are used.
"""

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import nn

from sparsepipe.engine.kernel_map import Asked, look_up_together

if TYPE_CHECKING:
    from sparsepipe.engine.coordinate_maps import CoordinateMaps

_seen: "WeakKeyDictionary[nn.Module, Asked]" = WeakKeyDictionary()
"""What was asked of the last maps that each layer saw."""


def foresee(layer: nn.Module, maps: "CoordinateMaps") -> None:
    """Tell that a layer is about to take a kernel map of `maps`. If nothing has been asked of them
    yet, what was asked of the last maps that the layer saw is made."""
    if torch.compiler.is_compiling():
        return
    last = _seen.get(layer)
    if last is maps.asked:
        return
    if last and not maps.asked:
        make_tables(maps, last)
    _seen[layer] = maps.asked


def make_tables(maps: "CoordinateMaps", asked: Asked) -> None:
    """Make tables that were asked of other maps, with the voxels that they need, as far as these
    maps have finer voxels."""
    kernels = [kernel for kernel, _ in asked if kernel.dimension == maps.dimension]
    maps.reach(stride for kernel in kernels for stride in kernel.strides)
    there = set(maps.strides)
    look_up_together(
        maps.kernel_map(kernel, transposed=transposed)
        for kernel, transposed in asked
        if kernel.dimension == maps.dimension and there.issuperset(kernel.strides)
    )
