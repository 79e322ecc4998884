"""Backends: whoever computes convolutions. A backend is a module with the functions of `Backend`.

    compiled    C++ kernels for CPUs, built on first use
    triton      Triton's kernels for CUDA
    pytorch     PyTorch's operators, which run everywhere
    native      the fastest of these three that runs on the device
    minkowski   MinkowskiEngine, where it is installed

A backend is imported when it is first used.
"""

import importlib
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from sparsepipe.engine.backends import in_graphs
from sparsepipe.engine.kernel_map import KernelMap
from sparsepipe.engine.precision import autocast, refuse_mixed_products
from sparsepipe.engine.traceable import traceable
from sparsepipe.engine.triton_here import triton_serves
from sparsepipe.names import BACKEND_MODULES, BACKENDS
from systems.schema import InputError, remedy

INSTALL = {"triton": "pip install triton", "minkowski": "make minkowski"}
"""How to install what a backend needs."""


class Backend(Protocol):
    """Computes convolutions over a kernel map with N inputs, M outputs and K offsets.

    Features and weight have one dtype, and so do results. Sums are taken in float32 or wider.
    Strided, dilated and transposed convolutions differ in the kernel map alone.
    """

    def forward(self, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        """The output [M, Cout] for features [N, Cin] and weight [K, Cin, Cout]. An output without
        inputs is 0."""

    def backward(
        self,
        gradient: Tensor,
        features: Tensor,
        weight: Tensor,
        kernel_map: KernelMap,
        needed: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of the features [N, Cin] and of the weight [K, Cin, Cout] for the gradient
        of the output [M, Cout]. `needed` says which of the two are needed; None replaces the
        other."""


def backend(name: str, device: torch.device | str = "cpu") -> Backend:
    """Import the backend of this name, for tensors on this device.

    Raises:
        InputError: there is no such backend, or its library is not installed.
    """
    if name not in BACKENDS:
        raise InputError(f"backend {name!r}: {remedy(name, BACKENDS)}")
    if name == "native":
        name = _native(torch.device(device))
    try:
        return cast(Backend, importlib.import_module(BACKEND_MODULES[name]))
    except ImportError as error:
        raise InputError(f"backend {name!r}: {error}; {INSTALL[name]}") from None


def _native(device: torch.device) -> str:
    """The name of this package's fastest backend that runs on the device."""
    if device.type == "cuda":
        return "triton" if triton_serves(device) else "pytorch"
    compiled = importlib.import_module(BACKEND_MODULES["compiled"])
    return "compiled" if device.type == "cpu" and compiled.kernels() else "pytorch"


@traceable
def convolve(
    features: Tensor, weight: Tensor, kernel_map: KernelMap, name: str = "native"
) -> Tensor:
    """Convolve features [N, Cin] with weight [K, Cin, Cout] to [M, Cout], differentiably (once).

    Under torch.autocast, features and weight are converted to its dtype first.

    Raises:
        InputError: shapes, dtypes or devices do not fit, or the backend `name` is unknown.
    """
    _check(features, weight, kernel_map)
    features, weight = autocast(features, weight)
    if torch.compiler.is_compiling():
        voxels = kernel_map.input_keys, kernel_map.output_keys
        traced: Tensor = in_graphs.convolve(features, weight, *voxels, kernel_map.handle, name)
        return traced
    output: Tensor = _Convolution.apply(
        features, weight, kernel_map, backend(name, features.device)
    )
    return output


class _Convolution(Function):
    """The differentiable function that hands its forward and backward passes to a backend."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap, backend: Backend
    ) -> Tensor:
        """The output of the backend; what its backward pass needs is saved."""
        ctx.save_for_backward(features, weight)
        ctx.kernel_map, ctx.backend = kernel_map, backend
        return backend.forward(features, weight, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """The gradients of features and weight, as far as they are needed."""
        features, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        feature_gradient, weight_gradient = ctx.backend.backward(
            gradient.contiguous(), features, weight, ctx.kernel_map, needed
        )
        return feature_gradient, weight_gradient, None, None


def _check(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> None:
    """Raise InputError if shapes, dtypes or devices do not fit together."""
    inputs, offsets = len(kernel_map.input_keys), kernel_map.volume
    if features.shape != (inputs, weight.shape[1]) or len(weight) != offsets:
        raise InputError(
            f"features {list(features.shape)} and weight {list(weight.shape)}: give [{inputs}, "
            f"Cin] and [{offsets}, Cin, Cout], as the kernel map has them"
        )
    refuse_mixed_products(features, weight)
    if features.device != weight.device or features.device != kernel_map.input_keys.device:
        raise InputError(
            f"features on {features.device}, weight on {weight.device}, coordinates on "
            f"{kernel_map.input_keys.device}: move them to one device"
        )
