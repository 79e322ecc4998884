"""Time and memory of one sparse convolution: native, MinkowskiEngine, and dense, side by side.

A 3x3x3 convolution of equal channels, stride 1, forward and backward, on the shell of a sphere that
fills a cube of `resolution` voxels a side: the surfaces that SparsePipe's networks see. Engines
take turns, each in a process of its own, so that its peak of memory is its own.
"""

import multiprocessing
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn

from sparsepipe.kernel_map import Kernel
from sparsepipe.layers import Convolution
from sparsepipe.tensor import SparseTensor
from systems.measure import Spread, timed

ENGINES = ("native", "minkowski", "dense")
KERNEL = Kernel(3, 1, 1, 1)
DENSE_MOST_OPERATIONS = 1e12
"""Dense volumes that take more floating-point operations for one pass are left out."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is timed."""

    engine: str
    resolution: int
    channels: int
    threads: int

    @property
    def dense_operations(self) -> float:
        """Floating-point operations of the dense convolution, forward and backward."""
        return 3 * 2 * 27 * self.channels**2 * float(self.resolution) ** 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found."""

    case: Case
    voxels: int
    pass_s: Spread
    """Forward and backward, the kernel map made before."""
    map_s: Spread | None
    """Making the kernel map; None where the engine does not tell."""
    peak_bytes: int
    """Most memory above what the process held before."""
    operations: float
    """Floating-point operations of one pass over the occupied sites."""


def shell(resolution: int) -> Tensor:
    """Voxels of a sphere's surface, int32 [N, 4], in a cube of this many voxels a side."""
    axis = torch.arange(resolution)
    plane = torch.cartesian_prod(axis, axis)
    middle, found = (resolution - 1) / 2, []
    for x in range(resolution):  # plane by plane: the whole grid would set the peak of memory
        distance = ((plane - middle).square().sum(1) + (x - middle) ** 2).sqrt()
        near = plane[(distance - 0.45 * resolution).abs() < 0.5]
        found.append(nn.functional.pad(near, (2, 0)) + torch.tensor([0, x, 0, 0]))
    return torch.cat(found).int()


def measure(case: Case, repetitions: int = 7) -> Row | None:
    """Time one case in a process of its own; None where its engine is not installed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "sparsepipe.layers"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(case, repetitions, theirs))
    process.start()
    theirs.close()
    try:
        row: Row | None = ours.recv()
    except EOFError:
        raise RuntimeError(f"the benchmark of {case} failed, its error is above") from None
    finally:
        process.join()
    return row


def _main(case: Case, repetitions: int, result: Connection) -> None:
    torch.set_num_threads(case.threads)
    result.send(_measured(case, repetitions))


def _measured(case: Case, repetitions: int) -> Row | None:
    coordinates = shell(case.resolution)
    torch.manual_seed(0)
    features = torch.randn(len(coordinates), case.channels)
    before = _peak_bytes()
    if case.engine == "minkowski" and _minkowski() is None:
        return None
    prepared = {"native": _native, "minkowski": _minkowski_pass, "dense": _dense}[case.engine]
    run, make_map = prepared(coordinates, features, case)
    pass_s = timed(run, warm_up=2, repetitions=repetitions)
    map_s = None if make_map is None else timed(make_map, repetitions=repetitions)
    peak_bytes = _peak_bytes() - before
    pairs = sum(SparseTensor(features.detach(), coordinates).maps.kernel_map(KERNEL).counts)
    return Row(
        case=case,
        voxels=len(coordinates),
        pass_s=pass_s,
        map_s=map_s,
        peak_bytes=peak_bytes,
        operations=3 * 2.0 * pairs * case.channels**2,
    )


Prepared = tuple[Callable[[], object], Callable[[], object] | None]


def _native(coordinates: Tensor, features: Tensor, case: Case) -> Prepared:
    layer = Convolution(case.channels, case.channels, 3)
    inputs = SparseTensor(features.requires_grad_(), coordinates)
    gradient = torch.randn_like(features)

    def run() -> None:
        layer(inputs).features.backward(gradient)
        features.grad = layer.kernel.grad = None

    def make_map() -> None:
        SparseTensor(features, coordinates).maps.kernel_map(KERNEL)

    return run, make_map


def _minkowski_pass(coordinates: Tensor, features: Tensor, case: Case) -> Prepared:
    engine = _minkowski()
    layer = engine.MinkowskiConvolution(case.channels, case.channels, kernel_size=3, dimension=3)
    first = engine.SparseTensor(features=features, coordinates=coordinates)
    leaf, gradient = first.F.detach().requires_grad_(), torch.randn_like(features)
    place = {
        "coordinate_map_key": first.coordinate_map_key,
        "coordinate_manager": first.coordinate_manager,  # keeps the kernel map of the first pass
    }

    def run() -> None:
        layer(engine.SparseTensor(features=leaf, **place)).F.backward(gradient)
        leaf.grad = layer.kernel.grad = None

    return run, None


def _minkowski() -> Any:
    """The module MinkowskiEngine, or None."""
    import collections
    import collections.abc

    collections.Sequence = collections.abc.Sequence  # type: ignore[attr-defined]  # it wants this
    try:
        import MinkowskiEngine
    except ImportError:
        return None
    return MinkowskiEngine


def _dense(coordinates: Tensor, features: Tensor, case: Case) -> Prepared:
    layer = nn.Conv3d(case.channels, case.channels, 3, padding=1, bias=False)
    volume = torch.zeros(1, case.channels, *[case.resolution] * 3)
    x, y, z = coordinates[:, 1:].long().unbind(1)
    volume[0, :, x, y, z] = features.t()
    volume.requires_grad_()
    gradient = torch.randn_like(volume)

    def run() -> None:
        layer(volume).backward(gradient)
        volume.grad = layer.weight.grad = None

    return run, None


def matrix_rate(channels: int, threads: int, rows: int = 8192) -> float:
    """Floating-point operations per second of [rows, channels] x [channels, channels]."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    left, right = torch.randn(rows, channels), torch.randn(channels, channels)
    out = torch.empty(rows, channels)
    seconds = timed(lambda: torch.mm(left, right, out=out), warm_up=5, repetitions=30).median
    torch.set_num_threads(before)
    return 2.0 * rows * channels**2 / seconds


def cases(resolutions: Sequence[int], channels: Sequence[int], threads: int) -> list[Case]:
    """All cases, engines taking turns; dense ones only as far as they end in minutes."""
    found = [
        Case(engine=engine, resolution=size, channels=width, threads=threads)
        for size in resolutions
        for width in channels
        for engine in ENGINES
    ]
    return [
        case
        for case in found
        if case.engine != "dense" or case.dense_operations <= DENSE_MOST_OPERATIONS
    ]


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
