"""Sparse convolution on the GPU: kernel maps, single convolutions, and a whole training step."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from sparsepipe.bench.clouds import task
from sparsepipe.bench.task import CLASSES, KERNEL
from sparsepipe.engine.backends import Backend, backend
from sparsepipe.engine.kernel_map import KernelMap
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models.unet import MinkUNet
from systems.measure import timed
from tests.gpu.machine import GPU
from tests.gpu.parts import Row, Scale

Timer = Callable[[Callable[[], object]], float]
"""Gives the seconds of a call."""
DEPTH = 14
"""Of the U-Net whose step is timed."""


def convolution(scale: Scale) -> Iterator[Row]:
    """On every cloud: the time of a kernel map, then of the passes of Triton's kernels, beside a
    product of as many pairs of dense rows, and beside spconv where it is installed."""
    engine, median_s = backend("triton"), _timer(scale)
    for cloud in scale.clouds:
        given = task(cloud, 1)
        coordinates = given.coordinates.to(GPU)
        kernel_map, row = _map(coordinates, median_s)
        yield {"cloud": cloud, **row}
        for channels in scale.channels:
            for dtype in scale.features:
                sizes = {"cloud": cloud, "channels": channels, "dtype": dtype}
                yield sizes | _passes(engine, kernel_map, channels, getattr(torch, dtype), median_s)
                yield from _spconv(sizes, coordinates, given.shape, given.batch_size, median_s)


def _map(coordinates: Tensor, median_s: Timer) -> tuple[KernelMap, Row]:
    """The kernel map of a 3x3x3 convolution, and the times of a tensor, with its map, and with that
    of the gradient."""
    ones = torch.ones(len(coordinates), 1, device=GPU)

    def tensor() -> SparseTensor:
        return SparseTensor(ones, coordinates)

    def with_map() -> KernelMap:
        found = tensor().maps.kernel_map(KERNEL)
        _ = found.neighbours
        return found

    def with_both() -> object:
        return with_map().transpose.neighbours

    kernel_map = with_map()
    return kernel_map, {
        "voxels": len(coordinates),
        "pairs": sum(kernel_map.counts),
        "tensor_s": median_s(tensor),
        "with_map_s": median_s(with_map),
        "with_both_maps_s": median_s(with_both),
    }


def _passes(
    engine: Backend, kernel_map: KernelMap, channels: int, dtype: torch.dtype, median_s: Timer
) -> Row:
    """The times of the three passes of a layer, and of a dense product of as many pairs."""
    rows, pairs = len(kernel_map.input_keys), sum(kernel_map.counts)
    x = torch.randn(rows, channels, device=GPU, dtype=dtype)
    weight = torch.randn(27, channels, channels, device=GPU, dtype=dtype) / (27 * channels) ** 0.5
    a, b = torch.randn(pairs, channels, device=GPU, dtype=dtype), weight[0]

    def gradients(of_inputs: bool, of_weight: bool) -> object:
        return engine.backward(x, x, weight, kernel_map, (of_inputs, of_weight))

    forward_s = median_s(lambda: engine.forward(x, weight, kernel_map))
    first, again = (engine.forward(x, weight, kernel_map) for _ in range(2))
    return {
        "forward_s": forward_s,
        "input_gradient_s": median_s(lambda: gradients(True, False)),
        "weight_gradient_s": median_s(lambda: gradients(False, True)),
        "gemm_of_as_many_pairs_s": median_s(lambda: a @ b),
        "forward_flop_per_s": 2 * pairs * channels**2 / forward_s,
        "same_again": torch.equal(first, again),
    }


def _spconv(
    sizes: Row, coordinates: Tensor, shape: tuple[int, ...], batch_size: int, median_s: Timer
) -> Iterator[Row]:
    """The time of spconv's forward pass on the same voxels, where it is installed."""
    try:
        import spconv.pytorch as spconv
    except ImportError:
        return
    channels, dtype = sizes["channels"], getattr(torch, sizes["dtype"])
    layer = spconv.SubMConv3d(channels, channels, 3, bias=False, indice_key="map").to(GPU, dtype)
    features = torch.randn(len(coordinates), channels, device=GPU, dtype=dtype)
    inputs = spconv.SparseConvTensor(features, coordinates, list(shape), batch_size)
    with torch.no_grad():
        layer(inputs)  # leaves its kernel map in `inputs`
        yield sizes | {"engine": "spconv", "forward_s": median_s(lambda: layer(inputs))}


def network(scale: Scale) -> Iterator[Row]:
    """A training step without the optimizer: its time, that of its kernels, and its launches."""
    given = task(scale.network_cloud)
    torch.manual_seed(0)
    model = MinkUNet(1, CLASSES, depth=DEPTH, width=scale.network_width).to(GPU)
    coordinates, features = given.coordinates.to(GPU), given.features.to(GPU)
    labels = torch.arange(len(coordinates), device=GPU) % CLASSES

    def step() -> None:
        found = model(SparseTensor(features, coordinates, batch_size=given.batch_size)).features
        nn.functional.cross_entropy(found, labels).backward()
        model.zero_grad()

    step_s = _timer(scale)(step)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    events = profiled.key_averages()
    yield {
        "network": f"minkunet{DEPTH}",
        "voxels": len(coordinates),
        "step_s": step_s,
        "kernels_s": sum(event.self_device_time_total for event in events) / 1e6,
        "launches": sum(event.count for event in events if "LaunchKernel" in event.key),
        "synchronisations": sum(event.count for event in events if "Synchronize" in event.key),
    }
    for event in sorted(events, key=lambda one: -one.self_device_time_total)[:20]:
        yield {
            "kernel": event.key[:80],
            "calls": event.count,
            "device_s": event.self_device_time_total / 1e6,
        }


def _timer(scale: Scale) -> Timer:
    """What gives the median seconds of a call, by events of the GPU."""

    def median_s(call: Callable[[], object]) -> float:
        return timed(call, repetitions=scale.repetitions, device=GPU).median

    return median_s
