"""Who computes convolutions. A backend is a module with the two functions of `Backend`.

Backends are imported when first used. `native` is always there: the fastest of this package's own
for the device, which are C++ kernels on a CPU and Triton's on CUDA, or PyTorch's operators where
there is no compiler for them. `minkowski` is MinkowskiEngine, where it is installed.
"""

import importlib
import warnings
from functools import cache
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from sparsepipe.engine.kernel_map import KernelMap
from sparsepipe.engine.precision import autocast, refuse_mixed_products
from sparsepipe.engine.traceable import traceable
from sparsepipe.names import BACKEND_MODULES, BACKENDS
from systems.schema import InputError, remedy

INSTALL = {"triton": "pip install triton", "minkowski": "make minkowski"}
LEAST_CAPABILITY = (8, 0)
"""Of a GPU that `native` uses Triton's kernels on: older ones lack bfloat16 or go unsupported."""


class Backend(Protocol):
    """Convolution with x [N, Cin], weight [K, Cin, Cout], N inputs and M outputs in the map.

    Both have one type, and results have it too; sums are taken in float32 or wider. The same
    function serves strided, dilated and transposed ones: the kernel map is all there is.
    """

    def forward(self, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        """y [M, Cout]; 0 where an output has no input."""

    def backward(
        self,
        gradient: Tensor,
        features: Tensor,
        weight: Tensor,
        kernel_map: KernelMap,
        needed: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the features [N, Cin] and the weight, those that are `needed`, from that of
        the output [M, Cout]."""


def backend(name: str, device: torch.device | str = "cpu") -> Backend:
    """The backend of this name, for tensors on this device.

    Raises:
        InputError: there is none, or its library is not installed.
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
    """This package's fastest backend that runs on the device."""
    if device.type == "cuda":
        return "triton" if _runs_triton(device) else "pytorch"
    compiled = importlib.import_module(BACKEND_MODULES["compiled"])
    return "compiled" if device.type == "cpu" and compiled.kernels() else "pytorch"


@cache
def _runs_triton(device: torch.device) -> bool:
    """Whether Triton is installed, finds what it builds launchers with and knows the GPU."""
    try:
        if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
            return False
        triton = importlib.import_module("triton")
        triton.runtime.driver.active.get_current_target()
    except Exception as error:  # whatever it is, PyTorch's operators do not need it
        warnings.warn(
            f"convolutions on {device} run with PyTorch's operators, without Triton's kernels: "
            f"{error}",
            stacklevel=3,
        )
        return False
    return True


@traceable
def convolve(
    features: Tensor, weight: Tensor, kernel_map: KernelMap, name: str = "native"
) -> Tensor:
    """Differentiable (once) convolution: [N, Cin] x [K, Cin, Cout] to [M, Cout].

    Under torch.autocast features and weight are cast to its type first.

    Raises:
        InputError: shapes, types or devices that do not fit, or an unknown backend.
    """
    _check(features, weight, kernel_map)
    features, weight = autocast(features, weight)
    output: Tensor = _Convolution.apply(
        features, weight, kernel_map, backend(name, features.device)
    )
    return output


class _Convolution(Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap, backend: Backend
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kernel_map, ctx.backend = kernel_map, backend
        return backend.forward(features, weight, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        features, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        of_features, of_weight = ctx.backend.backward(
            gradient.contiguous(), features, weight, ctx.kernel_map, needed
        )
        return of_features, of_weight, None, None


def _check(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> None:
    inputs, offsets = len(kernel_map.input_keys), len(kernel_map.counts)
    if features.shape != (inputs, weight.shape[1]) or len(weight) != offsets:
        raise InputError(
            f"features {list(features.shape)} and weight {list(weight.shape)}: give [{inputs}, "
            f"Cin] and [{offsets}, Cin, Cout], as the kernel map has them"
        )
    refuse_mixed_products(features, weight)
    if features.device != weight.device or features.device != kernel_map.input_rows.device:
        raise InputError(
            f"features on {features.device}, weight on {weight.device}, coordinates on "
            f"{kernel_map.input_rows.device}: move them to one device"
        )
