"""Convolution of each channel by itself, over the pairs of a kernel map."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from sparsepipe.engine.kernel_map import KernelMap
from sparsepipe.engine.precision import autocast, refuse_mixed_products, widened
from sparsepipe.engine.traceable import traceable


@traceable
def channelwise(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Sum the inputs of each output, each times the weight of its offset: features [N, C] and
    weight [K, C] become [M, C], differentiably (once).

    Under torch.autocast, features and weight are converted to its dtype first. Sums are taken in
    float32 or wider, offset by offset, so results are the same in every run.

    Raises:
        InputError: the weight has another dtype than the features.
    """
    refuse_mixed_products(features, weight)
    features, weight = autocast(features, weight)
    output: Tensor = _Channelwise.apply(widened(features), widened(weight), kernel_map)
    return output.to(features.dtype)


class _Channelwise(Function):
    """The differentiable function. Under one offset no row occurs twice, so rows are added without
    colliding."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
        """Gather, multiply and add, offset by offset."""
        ctx.save_for_backward(features, weight)
        ctx.kernel_map = kernel_map
        return _summed(features, weight, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradient of the features is the same over the swapped map."""
        features, weight = ctx.saved_tensors
        feature_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            feature_gradient = _summed(gradient, weight, ctx.kernel_map.transpose)
        if ctx.needs_input_grad[1]:
            sums = [
                (features[inputs] * gradient[outputs]).sum(0)
                for inputs, outputs in _pairs(ctx.kernel_map)
            ]
            weight_gradient = torch.stack(sums)
        return feature_gradient, weight_gradient, None


def _summed(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """The output [M, C]."""
    output = features.new_zeros(len(kernel_map.output_keys), features.shape[1])
    for (inputs, outputs), of_offset in zip(_pairs(kernel_map), weight, strict=True):
        output.index_add_(0, outputs, features.index_select(0, inputs) * of_offset)
    return output


def _pairs(kernel_map: KernelMap) -> "zip[tuple[Tensor, Tensor]]":
    """The input and output rows of the pairs of each offset."""
    counts = list(kernel_map.counts)
    return zip(
        kernel_map.input_rows.split(counts), kernel_map.output_rows.split(counts), strict=True
    )
