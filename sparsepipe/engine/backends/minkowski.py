"""Convolution by MinkowskiEngine 0.5.4, the library that the SparsePipe paper builds on.

`make minkowski` builds it for CPUs. The library gets the voxels and makes kernel maps of its own,
so that everything about a layer on this backend is the library's: maps, products and gradients. It
has float32 and float64. float16 and bfloat16 are computed in float32, and results rounded once.
"""

import collections
import collections.abc
import warnings
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sparsepipe.engine.axes import each
from sparsepipe.engine.backends.narrow import in_wide_types
from sparsepipe.engine.coordinates import unpack
from sparsepipe.engine.kernel_map import KernelMap
from systems.schema import InputError

collections.Sequence = collections.abc.Sequence  # type: ignore[attr-defined]  # the name that it still uses
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns that it was built for CPUs only
    import MinkowskiEngine
    import MinkowskiEngineBackend._C as engine


@dataclass(frozen=True, eq=False)
class _Place:
    """A kernel map as the library has it."""

    manager: Any
    """The library's object that keeps voxels and kernel maps."""
    inputs: Any
    """The name under which the manager keeps the input's voxels."""
    outputs: Any
    """The name under which the manager keeps the output's voxels."""
    input_order: Tensor
    """int64 [N]: our row of the input for each of the library's rows."""
    output_order: Tensor
    """int64 [M]: our row of the output for each of the library's rows."""
    kernel: tuple[Any, ...]
    """Size, stride, dilation and shape of the kernel, as the library's functions take them."""
    transposed: bool


_places: WeakKeyDictionary[KernelMap, _Place] = WeakKeyDictionary()
"""What has been made for each kernel map, for as long as the map lives."""


@in_wide_types
def forward(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """See `sparsepipe.engine.backends.Backend`."""
    if not len(kernel_map.output_rows):  # the library divides by it
        return features.new_zeros(len(kernel_map.output_keys), weight.shape[2])
    place = _place(kernel_map, features)
    compute = (
        engine.ConvolutionTransposeForwardCPU if place.transposed else engine.ConvolutionForwardCPU
    )
    output = compute(
        features[place.input_order],
        weight.contiguous(),
        *place.kernel,
        False,  # do not generate the output's voxels: they are in the manager
        engine.ConvolutionMode.DEFAULT,
        place.inputs,
        place.outputs,
        place.manager,
    )
    return features.new_empty(output.shape).index_copy_(0, place.output_order, output)


@in_wide_types
def backward(
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """See `sparsepipe.engine.backends.Backend`; the library always makes both gradients."""
    if not len(kernel_map.output_rows):
        return torch.zeros_like(features), torch.zeros_like(weight)
    place = _place(kernel_map, features)
    compute = (
        engine.ConvolutionTransposeBackwardCPU
        if place.transposed
        else engine.ConvolutionBackwardCPU
    )
    rows, weight_gradient = compute(
        features[place.input_order],
        gradient[place.output_order],
        weight.contiguous(),
        *place.kernel,
        engine.ConvolutionMode.DEFAULT,
        place.inputs,
        place.outputs,
        place.manager,
    )
    feature_gradient = features.new_empty(features.shape).index_copy_(0, place.input_order, rows)
    return feature_gradient if needed[0] else None, weight_gradient if needed[1] else None


def _place(kernel_map: KernelMap, features: Tensor) -> _Place:
    """The library's side of a kernel map, made on first use, or InputError on a GPU."""
    if features.device.type != "cpu":
        raise InputError(
            f"backend 'minkowski' on {features.device}: PyPI's version builds for CPU only with "
            "this CUDA; use the backend 'native'"
        )
    if kernel_map not in _places:
        _places[kernel_map] = _made(kernel_map)
    return _places[kernel_map]


def _made(kernel_map: KernelMap) -> _Place:
    """Hand the voxels of a kernel map to the library, and describe its kernel."""
    kernel = kernel_map.kernel
    if kernel.shape != "cube":
        raise InputError(
            "backend 'minkowski' has cubes alone (0.5.4 takes other cells for a cross, and no "
            "offsets): use the backend 'native'"
        )
    d = kernel.dimension
    fine, coarse = each(kernel.fine_stride, d), each(kernel.coarse_stride, d)
    strides = (coarse, fine) if kernel_map.transposed else (fine, coarse)
    manager = MinkowskiEngine.CoordinateManager(
        D=d, coordinate_map_type=engine.CoordinateMapType.CPU
    )
    inputs, (input_order, _) = manager.insert_and_map(unpack(kernel_map.input_keys, d), strides[0])
    outputs, output_order = inputs, input_order
    if fine != coarse:
        outputs, (output_order, _) = manager.insert_and_map(
            unpack(kernel_map.output_keys, d), strides[1]
        )
    generator = MinkowskiEngine.KernelGenerator(
        each(kernel.size, d),
        [c // f for c, f in zip(coarse, fine, strict=True)],
        each(kernel.dilation, d),
        dimension=d,
    )
    return _Place(
        manager=manager._manager,
        inputs=inputs,
        outputs=outputs,
        input_order=input_order.long(),
        output_order=output_order.long(),
        kernel=(
            generator.kernel_size,
            generator.kernel_stride,
            generator.kernel_dilation,
            generator.region_type,
            generator.region_offsets,
        ),
        transposed=kernel_map.transposed,
    )
