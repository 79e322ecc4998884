"""Convolution on a CPU with the C++ kernels of `csrc/convolution.cpp`, built on first use.

They multiply gathered rows without writing them down first, in float32 and float64; float16 and
bfloat16 are computed in float32, and the results rounded once.
"""

import ctypes
import functools
from collections.abc import Callable
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from sparsepipe.engine.backends import pytorch
from sparsepipe.engine.backends.narrow import in_wide_types
from sparsepipe.engine.kernel_map import KernelMap
from systems.build import library
from systems.schema import InputError

SOURCE = Path(__file__).parents[1] / "csrc" / "convolution.cpp"
FLAGS = ("-fno-tree-vectorize",)  # vectors are written out; the compiler's own would gather rows
TYPES = {torch.float32: "float32", torch.float64: "float64"}


class Map(ctypes.Structure):
    """`Map` of csrc/convolution.cpp, field by field."""

    _fields_ = (
        *((name, c_void_p) for name in ("inputs", "outputs", "firsts")),
        *((name, c_int64) for name in ("offsets", "rows")),
        ("threads", c_int),
    )


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The kernels; None, with a warning, where they cannot be built or loaded."""
    return library(SOURCE, "sparse convolutions run with PyTorch's operators, slower", FLAGS)


@in_wide_types
def forward(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """See `sparsepipe.engine.backends.Backend`."""
    if not _serves(features):
        return pytorch.forward(features, weight, kernel_map)
    return _convolved(features, weight, kernel_map, transpose=False)


@in_wide_types
def backward(
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """See `sparsepipe.engine.backends.Backend`."""
    if not _serves(features):
        return pytorch.backward(gradient, features, weight, kernel_map, needed)
    of_features = of_weight = None
    if needed[0]:
        of_features = _convolved(gradient, weight, kernel_map.transpose, transpose=True)
    if needed[1]:
        features, gradient = features.contiguous(), gradient.contiguous()
        of_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
        _function("weight_gradient", features)(
            *(_address(tensor) for tensor in (features, gradient, of_weight)),
            ctypes.byref(_map(kernel_map)),
            *(c_int64(channels) for channels in weight.shape[1:]),
        )
    return of_features, of_weight


def _serves(features: Tensor) -> bool:
    return features.dtype in TYPES and features.device.type == "cpu"


def _convolved(
    features: Tensor, weight: Tensor, kernel_map: KernelMap, *, transpose: bool
) -> Tensor:
    """[N, inner] to [M, outer]; the weight is [K, outer, inner] if `transpose`."""
    features, weight = features.contiguous(), weight.contiguous()
    inner, outer = weight.shape[1:][::-1] if transpose else weight.shape[1:]
    output = features.new_empty((len(kernel_map.output_keys), outer))
    _function("convolve", features)(
        *(_address(tensor) for tensor in (features, weight, output)),
        ctypes.byref(_map(kernel_map)),
        *(c_int64(inner), c_int64(outer), c_int(transpose)),
    )
    return output


def _function(name: str, features: Tensor) -> Callable[..., None]:
    loaded = kernels()
    if loaded is None:
        raise InputError(
            "backend 'compiled': its kernels could not be built or loaded, and a warning has said "
            "why; take 'native', which runs PyTorch's operators then"
        )
    function: Callable[..., None] = loaded[f"{name}_{TYPES[features.dtype]}"]
    return function


def _map(kernel_map: KernelMap) -> Map:
    return Map(
        *(kernel_map.input_rows.data_ptr(), kernel_map.output_rows.data_ptr()),
        *(kernel_map.firsts.data_ptr(), len(kernel_map.counts), len(kernel_map.output_keys)),
        torch.get_num_threads(),
    )


def _address(tensor: Tensor) -> c_void_p:
    return c_void_p(tensor.data_ptr())
