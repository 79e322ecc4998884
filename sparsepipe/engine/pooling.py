"""Pooling over a kernel map's pairs, or over samples: largest value, sum and mean, with gradients.

Sums are taken in float32 or wider, those of gradients too, and rounded once.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from sparsepipe.engine.kernel_map import KernelMap
from sparsepipe.engine.precision import widened
from sparsepipe.engine.traceable import traceable

_MAX = 2
"""The number of torch.embedding_bag's mode that also says where each largest value was."""


@traceable
def max_pool(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """[N, C] to [M, C]: the largest of each output's inputs; an output without inputs is 0.

    The value and the gradient are those of torch.nn.MaxPool3d at the same cells: a NaN among the
    inputs is the result, and the gradient goes to the input with the lowest row (the first in the
    order of x, y and z) of equal ones, and to the one with the highest row of several NaN.
    """
    output: Tensor = _Largest.apply(features, kernel_map.inputs_by_output, kernel_map.starts)
    return output


@traceable
def sum_pool(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """[N, C] to [M, C]: the sum of each output's inputs; 0 without any."""
    return _sums(features, kernel_map).to(features.dtype)


@traceable
def average_pool(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """[N, C] to [M, C]: the mean of each output's inputs, as many as there are; 0 without any."""
    inputs = kernel_map.starts.diff().clamp(min=1)
    return (_sums(features, kernel_map) / inputs[:, None]).to(features.dtype)


def max_of_samples(features: Tensor, starts: Tensor) -> Tensor:
    """[N, C] to [samples, C]: `max_pool` over the rows of each sample b, which are those from
    starts[b] to before starts[b + 1], int32 [samples + 1]."""
    rows = torch.arange(len(features), dtype=torch.int32, device=features.device)
    output: Tensor = _Largest.apply(features, rows, starts)
    return output


def average_of_samples(features: Tensor, sizes: Sequence[int]) -> Tensor:
    """[N, C] to [samples, C]: the mean of the rows of each sample; 0 without any."""
    samples = widened(features).split(sizes)
    means = torch.stack([rows.sum(0) / max(len(rows), 1) for rows in samples])
    return means.to(features.dtype)


class _Largest(Function):
    """[N, C] to [M, C]: output m is the largest of features[rows[starts[m] : starts[m + 1]]]."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: Tensor, starts: Tensor) -> Tensor:
        output, winners = _largest(features, rows, starts)
        empty = (starts.diff() == 0)[:, None]
        # embedding_bag passes over NaN. Only a CPU looks first: to look is to wait for a GPU.
        if features.device.type != "cpu" or features.sum().isnan():
            numbers = torch.arange(len(features), dtype=torch.float64, device=features.device)
            last, _ = _largest(numbers[:, None].where(features.isnan(), -1), rows, starts)
            found = (last >= 0) & ~empty
            output = output.masked_fill(found, torch.nan)
            winners = last.long().where(found, winners)
        ctx.save_for_backward(winners.masked_fill(empty, len(features)))
        ctx.rows = len(features)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (winners,) = ctx.saved_tensors
        wide = widened(gradient)
        # The row past the last takes the gradients of outputs without inputs.
        of_features = wide.new_zeros((ctx.rows + 1, gradient.shape[1]))
        of_features.scatter_add_(0, winners, wide)
        return of_features[:-1].to(gradient.dtype), None, None


def _largest(features: Tensor, rows: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """The largest values that are not NaN, and the rows where they are, int64; 0 and 0 of none."""
    output, _, _, winners = torch.embedding_bag(
        features, rows, starts, mode=_MAX, include_last_offset=True
    )
    return output, winners.long()


class _SumPool(Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.kernel_map = kernel_map
        return _sum(features, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _sum(gradient.contiguous(), ctx.kernel_map.transpose), None


def _sums(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """The sums in the type that they are taken in."""
    total: Tensor = _SumPool.apply(widened(features), kernel_map)
    return total


def _sum(features: Tensor, kernel_map: KernelMap) -> Tensor:
    rows, starts = kernel_map.inputs_by_output, kernel_map.starts
    return F.embedding_bag(rows, features, starts, mode="sum", include_last_offset=True)
