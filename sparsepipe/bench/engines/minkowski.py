"""MinkowskiEngine 0.5.4, where it is installed (`make minkowski`)."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from sparsepipe.bench.passes import STRIDED, Pass, Passes, layer_passes, network_passes
from sparsepipe.bench.task import Task
from sparsepipe.engine.backends import backend
from sparsepipe.models import Kit
from systems.schema import InputError


def missing(device: str, threads: int) -> str | None:
    """Why the library cannot be measured on a device here, with so many threads; None: it can."""
    del threads
    try:
        engine = _library()
    except InputError as error:
        return str(error)
    if device == "cuda" and not engine.is_cuda_available():
        return "it was built for CPUs only"
    return None


def passes(task: Task) -> Passes:
    """The passes of a task."""
    engine = _library()
    maps = {"maps": _maps(engine, task)}
    features = task.features

    def tensor() -> Any:
        """The task as a new tensor of the library, with no kernel map yet."""
        return engine.SparseTensor(features=features.detach(), coordinates=task.coordinates)

    if task.network:
        return {**network_passes(task, _kit(engine), tensor, lambda found: found.F), **maps}
    if not task.channels:
        return maps
    layer = engine.MinkowskiConvolution(task.channels, task.channels, kernel_size=3, dimension=3)
    layer = layer.to(task.device)
    first = tensor()
    rows = first.F.detach().requires_grad_()
    place = {
        "coordinate_map_key": first.coordinate_map_key,
        "coordinate_manager": first.coordinate_manager,  # keeps the kernel map of the first pass
    }
    return {
        **layer_passes(layer, lambda: layer(engine.SparseTensor(rows, **place)).F, rows),
        **maps,
    }


def _library() -> Any:
    """Import the library in the way that it needs, or raise an InputError."""
    backend("minkowski")
    import MinkowskiEngine

    return MinkowskiEngine


def _kit(engine: Any) -> Kit:
    """The kit of the library's own layers."""
    return Kit(
        convolution=partial(engine.MinkowskiConvolution, dimension=3),
        convolution_transpose=partial(engine.MinkowskiConvolutionTranspose, dimension=3),
        batch_norm=engine.MinkowskiBatchNorm,
        relu=engine.MinkowskiReLU,
        max_pooling=partial(engine.MinkowskiMaxPooling, dimension=3),
        global_max_pooling=engine.MinkowskiGlobalMaxPooling,
        linear=engine.MinkowskiLinear,
        dropout=engine.MinkowskiDropout,
        cat=engine.cat,
    )


def _maps(engine: Any, task: Task) -> Pass:
    """What makes every kernel map: that of stride 1 from coordinates, the others from voxels that
    the library's manager has already."""
    kinds = engine.CoordinateMapType
    kind = kinds.CUDA if task.device.type == "cuda" else kinds.CPU

    def inserted() -> tuple[Any, Any]:
        """A new manager with the voxels, and their name in it."""
        manager = engine.CoordinateManager(D=3, coordinate_map_type=kind)
        return manager, manager.insert_and_map(task.coordinates, 1)[0]

    def maps() -> Iterator[str | None]:
        """Make one map after the other, each with a manager of its own."""
        manager, fine = inserted()
        manager.kernel_map(fine, fine, kernel_size=3)
        yield "map 3^3"
        for size in STRIDED:
            manager, fine = inserted()
            yield None
            coarse = manager.stride(fine, 2)
            manager.kernel_map(fine, coarse, stride=2, kernel_size=size)
            yield f"map {size}^3 stride 2"
        for size in STRIDED:
            manager, fine = inserted()
            coarse = manager.stride(fine, 2)
            yield None
            manager.kernel_map(coarse, fine, stride=2, kernel_size=size, is_transpose=True)
            yield f"map {size}^3 transposed"

    return maps
