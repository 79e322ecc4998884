"""The libraries that are compared, each with the same work: native, MinkowskiEngine, spconv, dense.

An engine turns a task (voxels, features, channels) into two functions: one pass, forward and
backward, and the making of the kernel map, from unsorted knowledge of nothing but coordinates.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsepipe.engine.backends import backend
from sparsepipe.engine.kernel_map import Kernel
from sparsepipe.engine.layers import Convolution
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models import SPARSE, Kit, MinkVGG16
from systems.schema import InputError

KERNEL = Kernel(3, 1, 1, 1)
CLASSES = 40


@dataclass(frozen=True, kw_only=True)
class Task:
    """Voxels int32 [N, 4] of clouds in a cube, and what is computed on them."""

    coordinates: Tensor
    batch_size: int
    side: int
    """Voxels along an edge of the cube."""
    channels: int
    """Of the 3x3x3 convolution; 0: one training step of MinkVGG16-BN instead, optimizer apart."""

    @property
    def features(self) -> Tensor:
        """float32 [N, channels], or ones [N, 1] for the network; the same for every engine."""
        if not self.channels:
            return torch.ones(len(self.coordinates), 1)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(len(self.coordinates), self.channels, generator=generator)


@dataclass(frozen=True)
class Prepared:
    """What is timed."""

    run: Callable[[], object]
    """A pass. A layer's kernel map is made before; a network makes its own each time."""
    make_map: Callable[[], object] | None = None
    """From coordinates to the map of the convolution; None where there is none."""


def unavailable(engine: str, threads: int) -> str | None:
    """Why an engine cannot be measured here, or None."""
    try:
        if engine == "minkowski":
            backend("minkowski")
        if engine == "spconv" and threads > 1:
            return "its results on a CPU are wrong with more than one thread"
        if engine == "spconv":
            _spconv()
    except (InputError, ImportError) as error:
        return str(error)
    return None


def prepare(engine: str, task: Task) -> Prepared:
    """Set an engine up for a task."""
    return ENGINES[engine](task)


def _native(task: Task) -> Prepared:
    def tensor() -> SparseTensor:
        return SparseTensor(features, task.coordinates, batch_size=task.batch_size)

    features = task.features
    if not task.channels:
        return _network(SPARSE, tensor, task.batch_size)
    inputs = tensor().replace(features.requires_grad_())
    layer = Convolution(task.channels, task.channels, 3)
    return Prepared(
        _layer_pass(layer, lambda: layer(inputs).features, features),
        lambda: tensor().maps.kernel_map(KERNEL),
    )


def _minkowski(task: Task) -> Prepared:
    backend("minkowski")  # imports it as it wants to be
    import MinkowskiEngine as engine

    def tensor() -> Any:
        return engine.SparseTensor(features=features.detach(), coordinates=task.coordinates)

    def make_map() -> None:
        manager = engine.CoordinateManager(D=3)
        key, _ = manager.insert_and_map(task.coordinates, 1)
        manager.kernel_map(key, key, kernel_size=3)

    features = task.features
    if not task.channels:
        return _network(_minkowski_kit(engine), tensor, task.batch_size)
    layer = engine.MinkowskiConvolution(task.channels, task.channels, kernel_size=3, dimension=3)
    first = tensor()
    features = first.F.detach().requires_grad_()
    place = {
        "coordinate_map_key": first.coordinate_map_key,
        "coordinate_manager": first.coordinate_manager,  # keeps the kernel map of the first pass
    }
    return Prepared(
        _layer_pass(layer, lambda: layer(engine.SparseTensor(features, **place)).F, features),
        make_map,
    )


def _minkowski_kit(engine: Any) -> Kit:
    """The library's own layers, for whole networks."""
    return Kit(
        convolution=functools.partial(engine.MinkowskiConvolution, dimension=3),
        convolution_transpose=functools.partial(engine.MinkowskiConvolutionTranspose, dimension=3),
        batch_norm=engine.MinkowskiBatchNorm,
        relu=engine.MinkowskiReLU,
        max_pooling=functools.partial(engine.MinkowskiMaxPooling, dimension=3),
        global_max_pooling=engine.MinkowskiGlobalMaxPooling,
        linear=engine.MinkowskiLinear,
        dropout=engine.MinkowskiDropout,
        cat=engine.cat,
    )


def _spconv_pass(task: Task) -> Prepared:
    if not task.channels:
        raise InputError("spconv has no MinkVGG16 here: compare it on single layers")
    spconv = _spconv()
    from spconv.core import ConvAlgo
    from spconv.pytorch.ops import get_indice_pairs

    features = task.features.requires_grad_()
    layer = spconv.SubMConv3d(
        *(task.channels, task.channels, 3), bias=False, indice_key="map", algo=ConvAlgo.Native
    )
    shape, threes, ones, zeros = [task.side] * 3, [3] * 3, [1] * 3, [0] * 3
    kept = spconv.SparseConvTensor(features, task.coordinates, shape, task.batch_size)
    layer(kept)  # leaves its kernel map in `kept`, under the key
    return Prepared(
        _layer_pass(layer, lambda: layer(kept.replace_feature(features)).features, features),
        lambda: get_indice_pairs(
            *(task.coordinates, task.batch_size, shape, ConvAlgo.Native),
            *(threes, ones, ones, ones, zeros),
            subm=True,
        ),
    )


def _spconv() -> Any:
    """spconv, its backward pass mended: on a CPU it asks for the stream of a CUDA device."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # of no use here
    import spconv.pytorch
    from spconv.pytorch import ops

    if not torch.cuda.is_available():
        ops.get_current_stream = lambda: 0
    return spconv.pytorch


def _dense(task: Task) -> Prepared:
    if not task.channels:
        raise InputError("the dense twin of MinkVGG16 is compared layer by layer")
    layer = nn.Conv3d(task.channels, task.channels, 3, padding=1, bias=False)
    volume = torch.zeros(task.batch_size, task.channels, *[task.side] * 3)
    sample, x, y, z = task.coordinates.long().unbind(1)
    volume[sample, :, x, y, z] = task.features
    volume.requires_grad_()
    return Prepared(_layer_pass(layer, lambda: layer(volume), volume))


def _layer_pass(
    layer: nn.Module, forward: Callable[[], Tensor], inputs: Tensor
) -> Callable[[], None]:
    def run() -> None:
        output = forward()
        output.backward(output.detach())  # some gradient, at no cost
        for tensor in (inputs, *layer.parameters()):
            tensor.grad = None

    return run


def _network(kit: Kit, tensor: Callable[[], Any], batch_size: int) -> Prepared:
    torch.manual_seed(0)
    network = MinkVGG16(1, CLASSES, kit=kit)
    labels = torch.arange(batch_size) % CLASSES

    def run() -> None:
        logits = network(tensor())
        rows = logits.features if isinstance(logits, SparseTensor) else logits.F
        nn.functional.cross_entropy(rows, labels).backward()
        network.zero_grad()

    return Prepared(run)


ENGINES: Mapping[str, Callable[[Task], Prepared]] = {
    "native": _native,
    "minkowski": _minkowski,
    "spconv": _spconv_pass,
    "dense": _dense,
}
"""Name to what sets it up."""
