"""Pooling over a kernel map's pairs: largest value and mean, with their gradients."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from sparsepipe.kernel_map import KernelMap

_MAX = 2
"""The number of torch.embedding_bag's mode that also says where each largest value was."""


def max_pool(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """[N, C] to [M, C]: the largest of each output's inputs, the first one where several are.

    The gradient goes to that input. An output without inputs is 0.
    """
    output: Tensor = _MaxPool.apply(features, kernel_map)
    return output


def average_pool(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """[N, C] to [M, C]: the mean of each output's inputs, as many as there are; 0 without any."""
    total: Tensor = _SumPool.apply(features, kernel_map)
    return total / kernel_map.starts.diff().clamp(min=1).to(total.dtype)[:, None]


class _MaxPool(Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel_map: KernelMap) -> Tensor:
        rows, starts = kernel_map.inputs_by_output, kernel_map.starts
        output, _, _, winners = torch.embedding_bag(
            features, rows, starts, mode=_MAX, include_last_offset=True
        )
        empty = (starts.diff() == 0)[:, None]
        ctx.save_for_backward(winners.long().masked_fill(empty, len(features)))
        ctx.rows = len(features)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (winners,) = ctx.saved_tensors
        # The row past the last takes the gradients of outputs without inputs.
        of_features = gradient.new_zeros((ctx.rows + 1, gradient.shape[1]))
        return of_features.scatter_add_(0, winners, gradient)[:-1], None


class _SumPool(Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.kernel_map = kernel_map
        return _sum(features, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _sum(gradient.contiguous(), ctx.kernel_map.transpose), None


def _sum(features: Tensor, kernel_map: KernelMap) -> Tensor:
    rows, starts = kernel_map.inputs_by_output, kernel_map.starts
    return F.embedding_bag(rows, features, starts, mode="sum", include_last_offset=True)
