"""spconv 2.3, where it is installed (`pip install spconv` for CPUs, `spconv-cu120` for GPUs).

It has layers and kernel maps alone: its layers keep their maps under names that the user gives
them, so our networks cannot be built of it unchanged. Of the strided maps it has the one of kernel
size 2, whose coarse voxels are those of the other engines; a transposed layer reuses the map of the
strided one.
"""

import logging
from collections.abc import Iterator
from typing import Any

import torch

from sparsepipe.bench.passes import Pass, Passes, layer_passes
from sparsepipe.bench.task import Task


def missing(device: str, threads: int) -> str | None:
    """Why the library cannot be measured on a device here, with so many threads; None: it can."""
    on_gpu = device == "cuda"
    if not on_gpu and threads > 1:
        return "its results on a CPU are wrong with more than one thread"
    try:
        _library()
    except ImportError as error:
        return f"{error}; pip install spconv"
    if on_gpu and _cpu_only():
        return "it was built for CPUs only; pip install spconv-cu120"
    return None


def passes(task: Task) -> Passes:
    """The passes of a task."""
    library = _library()
    maps = {"maps": _maps(task)}
    if not task.channels:
        return maps
    features = task.features.requires_grad_()
    layer = library.SubMConv3d(task.channels, task.channels, 3, bias=False, indice_key="map")
    layer = layer.to(task.device)
    inputs = library.SparseConvTensor(features, task.coordinates, list(task.shape), task.batch_size)
    layer(inputs)  # leaves its kernel map in `inputs`, under the key

    def forward() -> torch.Tensor:
        """The layer's output."""
        found: torch.Tensor = layer(inputs.replace_feature(features)).features
        return found

    return {**layer_passes(layer, forward, features), **maps}


def _library() -> Any:
    """Import spconv and repair its backward pass, which asks for the stream of a CUDA device on a
    CPU."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # its warnings are noise
    import spconv.pytorch
    from spconv.pytorch import ops

    if not torch.cuda.is_available():
        ops.get_current_stream = lambda: 0
    return spconv.pytorch


def _cpu_only() -> bool:
    """Whether the library was built without CUDA."""
    from spconv.constants import CPU_ONLY_BUILD

    return bool(CPU_ONLY_BUILD)


def _maps(task: Task) -> Pass:
    """What makes kernel maps from coordinates: it keeps nothing of voxels between them."""
    from spconv.core import ConvAlgo
    from spconv.pytorch import ops

    on_gpu = task.device.type == "cuda"
    make = ops.get_indice_pairs_implicit_gemm if on_gpu else ops.get_indice_pairs
    algorithm = ConvAlgo.MaskImplicitGemm if on_gpu else ConvAlgo.Native  # its layers' own choices
    voxels = task.coordinates, task.batch_size, list(task.shape), algorithm

    def maps() -> Iterator[str | None]:
        """Make one map after the other."""
        size, stride, padding, dilation, out_padding = ([n] * 3 for n in (3, 1, 1, 1, 0))
        make(*voxels, size, stride, padding, dilation, out_padding, subm=True)
        yield "map 3^3"
        size, stride, padding = ([n] * 3 for n in (2, 2, 0))
        make(*voxels, size, stride, padding, dilation, out_padding)
        yield "map 2^3 stride 2"

    return maps
