"""The engines that are compared on the same task: ours, MinkowskiEngine, spconv and dense PyTorch.

An engine turns a task (voxels, features, channels) into two functions: one makes a pass, forward
and backward; the other makes the kernel map from nothing but the coordinates.
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

KERNEL = Kernel(size=3, dilation=1, fine_stride=1, coarse_stride=1)
"""The kernel of every task's convolution."""
CLASSES = 40
"""The classes that the network of a task tells apart."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The voxels of clouds in a cube, and what is computed on them."""

    coordinates: Tensor
    """int32 [N, 4]."""
    batch_size: int
    side: int
    """The number of voxels along an edge of the cube."""
    channels: int
    """Input and output channels of a 3x3x3 convolution; 0: a training step of MinkVGG16-BN instead,
    without the optimizer."""

    @property
    def features(self) -> Tensor:
        """float32 [N, channels], or ones [N, 1] for the network. They are the same for every
        engine."""
        if not self.channels:
            return torch.ones(len(self.coordinates), 1)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(len(self.coordinates), self.channels, generator=generator)


@dataclass(frozen=True)
class Prepared:
    """The functions of an engine that are timed."""

    run: Callable[[], object]
    """Makes a pass. The kernel map of a layer was made before; a network makes its own each
    time."""
    make_map: Callable[[], object] | None = None
    """Makes the kernel map of the convolution from coordinates; None for an engine that has
    none."""


def unavailable(engine: str, threads: int) -> str | None:
    """The reason why an engine cannot be measured with this many threads here, or None."""
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
    """Prepare an engine for a task."""
    return ENGINES[engine](task)


def _native(task: Task) -> Prepared:
    """Prepare this package's own engine."""

    def tensor() -> SparseTensor:
        """The task as a new tensor, with no kernel map yet."""
        return SparseTensor(features, task.coordinates, batch_size=task.batch_size)

    features = task.features
    if not task.channels:
        return _network(SPARSE, tensor, task.batch_size)
    inputs = tensor().replace(features.requires_grad_())
    layer = Convolution(task.channels, task.channels, 3)
    return Prepared(
        _layer_pass(layer, lambda: layer(inputs).features, features),
        lambda: tensor().maps.kernel_map(KERNEL).counts,
    )


def _minkowski(task: Task) -> Prepared:
    """Prepare MinkowskiEngine."""
    backend("minkowski")  # imports it in the way that it needs
    import MinkowskiEngine as engine

    def tensor() -> Any:
        """The task as a new tensor of the library, with no kernel map yet."""
        return engine.SparseTensor(features=features.detach(), coordinates=task.coordinates)

    def make_map() -> None:
        """Make the library's kernel map from the coordinates."""
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
    """The kit of MinkowskiEngine's own layers, for whole networks."""
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
    """Prepare spconv."""
    if not task.channels:
        raise InputError("spconv has no MinkVGG16 here: compare it on single layers")
    spconv = _spconv()
    from spconv.core import ConvAlgo
    from spconv.pytorch.ops import get_indice_pairs

    features = task.features.requires_grad_()
    layer = spconv.SubMConv3d(
        task.channels, task.channels, 3, bias=False, indice_key="map", algo=ConvAlgo.Native
    )
    shape, threes, ones, zeros = [task.side] * 3, [3] * 3, [1] * 3, [0] * 3
    inputs = spconv.SparseConvTensor(features, task.coordinates, shape, task.batch_size)
    layer(inputs)  # leaves its kernel map in `inputs`, under the key
    return Prepared(
        _layer_pass(layer, lambda: layer(inputs.replace_feature(features)).features, features),
        lambda: get_indice_pairs(
            task.coordinates,
            task.batch_size,
            shape,
            ConvAlgo.Native,
            threes,
            ones,
            ones,
            ones,
            zeros,
            subm=True,
        ),
    )


def _spconv() -> Any:
    """Import spconv and repair its backward pass, which asks for the stream of a CUDA device on a
    CPU."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # its warnings are noise
    import spconv.pytorch
    from spconv.pytorch import ops

    if not torch.cuda.is_available():
        ops.get_current_stream = lambda: 0
    return spconv.pytorch


def _dense(task: Task) -> Prepared:
    """Prepare PyTorch's dense convolution of the whole cube."""
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
    """What makes a pass through a layer: `forward` and the gradients of `inputs` and parameters."""

    def run() -> None:
        """Make one pass, and drop its gradients."""
        output = forward()
        output.backward(output.detach())  # any gradient will do, and this one costs nothing
        for tensor in (inputs, *layer.parameters()):
            tensor.grad = None

    return run


def _network(kit: Kit, tensor: Callable[[], Any], batch_size: int) -> Prepared:
    """Prepare a training step of MinkVGG16 that is built of a kit's layers."""
    torch.manual_seed(0)
    network = MinkVGG16(1, CLASSES, kit=kit)
    labels = torch.arange(batch_size) % CLASSES

    def run() -> None:
        """Make one training step without the optimizer."""
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
"""The function that prepares each engine."""
