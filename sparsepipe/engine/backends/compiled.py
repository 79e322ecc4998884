"""Convolution on a CPU with the C++ kernels of `csrc/convolution.cpp`, which are built on first
use.

They multiply the input rows of pairs where these lie, without copying them together first. They
have float32 and float64. float16 and bfloat16 are computed in float32, and results rounded once.
"""

import ctypes
import functools
from collections.abc import Callable
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from sparsepipe.engine import buffers
from sparsepipe.engine.backends import pytorch
from sparsepipe.engine.backends.narrow import in_wide_types
from sparsepipe.engine.kernel_map import KernelMap
from systems.build import library
from systems.schema import InputError

SOURCE = Path(__file__).parents[1] / "csrc" / "convolution.cpp"
FLAGS = ("-fno-tree-vectorize",)
"""Vectors are written out in the source. The compiler's own would gather numbers from many rows."""
ARGUMENTS = {
    "packed": (c_void_p, c_int64, c_int64),
    "convolve": (*5 * (c_void_p,), c_int64, c_int64, c_int),
    "weight_gradient": (*4 * (c_void_p,), c_int64, c_int64),
}
"""The types of the kernels' arguments: addresses and sizes."""
TYPES = {torch.float32: "float32", torch.float64: "float64"}
"""How the names of the kernels for each dtype end."""


class Map(ctypes.Structure):
    """The struct `Map` of csrc/convolution.cpp, field by field."""

    _fields_ = (
        ("inputs", c_void_p),
        ("outputs", c_void_p),
        ("firsts", c_void_p),
        ("offsets", c_int64),
        ("rows", c_int64),
        ("threads", c_int),
    )


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """Build and load the kernels. Returns None, with a warning, where that fails."""
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
    feature_gradient = weight_gradient = None
    if needed[0]:  # a convolution over the same pairs, with inputs and outputs swapped
        feature_gradient = _convolved(gradient, weight, kernel_map.transpose, transpose=True)
    if needed[1]:
        features, gradient = features.contiguous(), gradient.contiguous()
        weight_gradient = buffers.empty(weight.shape, weight.dtype)
        _function("weight_gradient", features.dtype)(
            features.data_ptr(),
            gradient.data_ptr(),
            weight_gradient.data_ptr(),
            ctypes.byref(_map(kernel_map)),
            weight.shape[1],
            weight.shape[2],
        )
    return feature_gradient, weight_gradient


def _serves(features: Tensor) -> bool:
    """Whether the kernels have the dtype and device of the features."""
    return features.dtype in TYPES and features.device.type == "cpu"


def _convolved(
    features: Tensor, weight: Tensor, kernel_map: KernelMap, *, transpose: bool
) -> Tensor:
    """Convolve [N, inner] to [M, outer]. The weight is [K, inner, outer], or [K, outer, inner] if
    `transpose`."""
    features, weight = features.contiguous(), weight.contiguous()
    inner, outer = weight.shape[1:][::-1] if transpose else weight.shape[1:]
    output = buffers.empty((len(kernel_map.output_keys), outer), features.dtype)
    pairs = ctypes.byref(_map(kernel_map))
    packed = _function("packed", features.dtype)(pairs, inner, outer)
    scratch = buffers.empty((packed,), features.dtype)
    _function("convolve", features.dtype)(
        features.data_ptr(),
        weight.data_ptr(),
        output.data_ptr(),
        scratch.data_ptr(),
        pairs,
        inner,
        outer,
        transpose,
    )
    return output


def _function(name: str, dtype: torch.dtype) -> Callable[..., int]:
    """The kernel `name` for a dtype, or InputError where there are no kernels."""
    loaded = kernels()
    if loaded is None:
        raise InputError(
            "backend 'compiled': its kernels could not be built or loaded, and a warning has said "
            "why; take 'native', which uses PyTorch's operators then"
        )
    return _typed(loaded, name, dtype)


@functools.cache
def _typed(loaded: ctypes.CDLL, name: str, dtype: torch.dtype) -> Callable[..., int]:
    """A kernel of a library with its types, which take plain numbers."""
    function = getattr(loaded, f"{name}_{TYPES[dtype]}")
    function.argtypes = ARGUMENTS[name]
    function.restype = c_int64 if name == "packed" else None
    return cast(Callable[..., int], function)


def _map(kernel_map: KernelMap) -> Map:
    """The kernel map as the kernels take it. It points into the tensors of `kernel_map`."""
    return Map(
        inputs=kernel_map.input_rows.data_ptr(),
        outputs=kernel_map.output_rows.data_ptr(),
        firsts=kernel_map.firsts.data_ptr(),
        offsets=len(kernel_map.counts),
        rows=len(kernel_map.output_keys),
        threads=torch.get_num_threads(),
    )
