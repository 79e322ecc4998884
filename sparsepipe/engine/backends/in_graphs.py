"""Convolution as an operator of PyTorch, which torch.compile puts into its graphs as it is.

Graphs hold tensors and numbers; a kernel map comes as its handle, a tensor, and as the voxels that
it joins. Outside of compiled code `sparsepipe.engine.backends.convolve` does without.
"""

from typing import Any

import torch
from torch import Tensor

from sparsepipe.engine.kernel_map import of_handle


@torch.library.custom_op("sparsepipe::convolve", mutates_args=())
def convolve(
    features: Tensor,
    weight: Tensor,
    input_keys: Tensor,
    output_keys: Tensor,
    handle: Tensor,
    name: str,
) -> Tensor:
    """The output [M, Cout] for features [N, Cin] and weight [K, Cin, Cout], over the kernel map of
    a handle between N and M voxels."""
    from sparsepipe.engine.backends import backend

    kernel_map = of_handle(handle, input_keys, output_keys)
    return backend(name, features.device).forward(features, weight, kernel_map)


@convolve.register_fake
def _(
    features: Tensor, weight: Tensor, input_keys: Tensor, output_keys: Tensor, *_: object
) -> Tensor:
    return features.new_empty(output_keys.shape[0], weight.shape[2])


@torch.library.custom_op("sparsepipe::convolve_backward", mutates_args=())
def convolve_backward(
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    input_keys: Tensor,
    output_keys: Tensor,
    handle: Tensor,
    name: str,
) -> tuple[Tensor, Tensor]:
    """The gradients of the features and of the weight."""
    from sparsepipe.engine.backends import backend

    kernel_map = of_handle(handle, input_keys, output_keys)
    found = backend(name, features.device).backward(
        gradient.contiguous(), features, weight, kernel_map, (True, True)
    )
    assert found[0] is not None
    assert found[1] is not None
    return found[0], found[1]


@convolve_backward.register_fake
def _(gradient: Tensor, features: Tensor, weight: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(features), weight.new_empty(weight.shape)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, name = inputs
    ctx.save_for_backward(*tensors)
    ctx.name = name


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    of_features, of_weight = convolve_backward(gradient, *ctx.saved_tensors, ctx.name)
    return of_features, of_weight, None, None, None, None


convolve.register_autograd(_gradients, setup_context=_save)
