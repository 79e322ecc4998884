"""Pooling over the pairs of a kernel map, or over samples: largest value, sum and mean.

All functions are differentiable (once). Sums are taken in float32 or wider, in the gradients too,
and rounded once.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from sparsepipe.engine.kernel_map import KernelMap
from sparsepipe.engine.precision import widened
from sparsepipe.engine.traceable import traceable

_MAX = 2
"""The mode of torch.embedding_bag that returns the largest values and where they were."""
PIECE = 256
"""The most rows that are summed one after the other in global pooling."""


@traceable
def max_pool(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """Take the largest of the inputs of each output: [N, C] becomes [M, C]. An output without
    inputs is 0.

    Values and gradients are those of torch.nn.MaxPool3d at the same cells. A NaN among the inputs
    is the result. The gradient goes to the largest input; of several equal ones to the one with the
    lowest row (the first in the order of x, y and z), of several NaN to the one with the highest.
    """
    output: Tensor = _Largest.apply(features, kernel_map.inputs_by_output, kernel_map.starts)
    return output


@traceable
def sum_pool(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """Sum the inputs of each output: [N, C] becomes [M, C]. An output without inputs is 0."""
    return _sums(features, kernel_map).to(features.dtype)


@traceable
def average_pool(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """Take the mean of the inputs that each output has: [N, C] becomes [M, C]. An output without
    inputs is 0."""
    inputs = kernel_map.starts.diff().clamp(min=1)
    return (_sums(features, kernel_map) / inputs[:, None]).to(features.dtype)


def max_of_samples(features: Tensor, starts: Tensor) -> Tensor:
    """Take the largest value of each sample, as `max_pool` does: [N, C] becomes [samples, C].
    Sample b has the rows from starts[b] to before starts[b + 1]; `starts` is int32 [samples +
    1]."""
    rows = torch.arange(len(features), dtype=torch.int32, device=features.device)
    output: Tensor = _Largest.apply(features, rows, starts)
    return output


def average_of_samples(features: Tensor, starts: Tensor) -> Tensor:
    """Take the mean of the rows of each sample: [N, C] becomes [samples, C]. A sample without rows
    is 0. `starts` are those of `max_of_samples`."""
    rows = starts.diff().clamp(min=1)
    return (_sums_of_samples(features, starts) / rows[:, None]).to(features.dtype)


def sum_of_samples(features: Tensor, starts: Tensor) -> Tensor:
    """Sum the rows of each sample: [N, C] becomes [samples, C]. `starts` are those of
    `max_of_samples`."""
    return _sums_of_samples(features, starts).to(features.dtype)


def _sums_of_samples(features: Tensor, starts: Tensor) -> Tensor:
    """The sums of the rows of each sample before they are rounded, in two steps: first over pieces
    of at most `PIECE` rows, so that a GPU has many short sums to take at once, then over the pieces
    of each sample."""
    rows, starts = widened(features), starts.long()
    pieces = torch.arange(0, len(rows), PIECE, device=rows.device)
    edges = torch.cat([pieces, starts]).sort().values
    sums = torch.segment_reduce(rows, "sum", offsets=edges, initial=0, unsafe=True)
    of_samples = torch.searchsorted(edges, starts)
    return torch.segment_reduce(sums, "sum", offsets=of_samples, initial=0, unsafe=True)


class _Largest(Function):
    """The differentiable function from [N, C] to [M, C] whose output m is the largest of
    features[rows[starts[m] : starts[m + 1]]]."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: Tensor, starts: Tensor) -> Tensor:
        """Take the largest values, and remember which rows they came from."""
        output, winners = _largest(features, rows, starts)
        empty = (starts.diff() == 0)[:, None]
        # embedding_bag skips NaN, so outputs that have one are found in a second pass: the largest
        # number of a row that is NaN. A CPU first looks whether there is any NaN; on a GPU, looking
        # would mean waiting for it.
        if features.device.type != "cpu" or features.sum().isnan():
            numbers = torch.arange(len(features), dtype=torch.float64, device=features.device)
            last, _ = _largest(numbers[:, None].where(features.isnan(), -1), rows, starts)
            has_nan = (last >= 0) & ~empty
            output = output.masked_fill(has_nan, torch.nan)
            winners = last.long().where(has_nan, winners)
        ctx.save_for_backward(winners.masked_fill(empty, len(features)))
        ctx.rows = len(features)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Add the gradient of each output to the row that its value came from."""
        (winners,) = ctx.saved_tensors
        wide = widened(gradient)
        # The extra row at the end takes the gradients of outputs without inputs.
        feature_gradient = wide.new_zeros((ctx.rows + 1, gradient.shape[1]))
        feature_gradient.scatter_add_(0, winners, wide)
        return feature_gradient[:-1].to(gradient.dtype), None, None


def _largest(features: Tensor, rows: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """The largest value of each output that is not NaN, and the row where it is, int64. Both are 0
    for an output without such values."""
    output, _, _, winners = torch.embedding_bag(
        features, rows, starts, mode=_MAX, include_last_offset=True
    )
    return output, winners.long()


class _SumPool(Function):
    """The differentiable function that sums features [N, C] over the pairs of a kernel map."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel_map: KernelMap) -> Tensor:
        """Sum the inputs of each output."""
        ctx.kernel_map = kernel_map
        return _sum(features, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Sum the gradients of the outputs that each input went into."""
        return _sum(gradient.contiguous(), ctx.kernel_map.transpose), None


def _sums(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """The sums of each output's inputs, [M, C], before they are rounded to the features' dtype."""
    total: Tensor = _SumPool.apply(widened(features), kernel_map)
    return total


def _sum(features: Tensor, kernel_map: KernelMap) -> Tensor:
    """The sums of each output's inputs, without a gradient."""
    rows, starts = kernel_map.inputs_by_output, kernel_map.starts
    return F.embedding_bag(rows, features, starts, mode="sum", include_last_offset=True)
