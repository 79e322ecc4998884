"""This package's own engine, with one of its backends."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from sparsepipe.bench.passes import STRIDED, Pass, Passes, layer_passes, network_passes
from sparsepipe.bench.task import KERNEL, Task
from sparsepipe.engine.kernel_map import Kernel, KernelMap
from sparsepipe.engine.layers import Convolution
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models import SPARSE, Kit


def passes(task: Task, backend: str = "native") -> Passes:
    """The passes of a task; those over kernel maps belong to the backend `native` alone, since
    backends share their maps."""
    maps = {"maps": _maps(task)} if backend == "native" else {}
    features = task.features

    def tensor() -> SparseTensor:
        """The task as a new tensor, with no kernel map yet."""
        return SparseTensor(features, task.coordinates, batch_size=task.batch_size)

    if task.network:
        kit = _kit(backend)
        return {**network_passes(task, kit, tensor, lambda found: found.features), **maps}
    if not task.channels:
        return maps
    inputs = tensor().replace(features.requires_grad_())
    layer = Convolution(task.channels, task.channels, 3, backend=backend).to(task.device)
    return {**layer_passes(layer, lambda: layer(inputs).features, features), **maps}


def _kit(backend: str) -> Kit:
    """The kit of our layers, whose convolutions are computed by a backend."""
    return replace(
        SPARSE,
        convolution=partial(SPARSE.convolution, backend=backend),
        convolution_transpose=partial(SPARSE.convolution_transpose, backend=backend),
    )


def _maps(task: Task) -> Pass:
    """What makes every kernel map: that of stride 1 from coordinates, the others from a tensor."""
    ones = torch.ones(len(task.coordinates), 1, device=task.device)
    strided = [Kernel(size=size, dilation=1, fine_stride=1, coarse_stride=2) for size in STRIDED]

    def maps() -> Iterator[str | None]:
        """Make one map after the other, each with voxels of its own."""
        same = SparseTensor(ones, task.coordinates, batch_size=task.batch_size).maps
        _make(same.kernel_map(KERNEL))
        yield "map 3^3"
        for kernel in strided:
            fine = SparseTensor(ones, task.coordinates, batch_size=task.batch_size).maps
            yield None
            fine.coarsen(1, 2)
            _make(fine.kernel_map(kernel))
            yield f"map {kernel.size}^3 stride 2"
        for kernel in strided:
            both = SparseTensor(ones, task.coordinates, batch_size=task.batch_size).maps
            both.coarsen(1, 2)
            yield None
            _make(both.kernel_map(kernel, transposed=True))
            yield f"map {kernel.size}^3 transposed"

    return maps


def _make(kernel_map: KernelMap) -> None:
    """Have a map made as this device's convolutions read it: a table on a GPU, pairs on a CPU."""
    _ = kernel_map.neighbours if kernel_map.input_keys.is_cuda else kernel_map.counts
