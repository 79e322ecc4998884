"""Batch normalisation, with the sum of a shortcut and the ReLU after it, by one kernel a pass.

A program (a block of GPU threads) owns a few channels, and goes over all of their rows twice. So no
program waits for another, and one launch does all:

    forward     for each tile of rows    mean and squares of each lane, by Welford's method
                those of all lanes together; running statistics; the count of batches
                for each tile of rows    normalise, add the shortcut, cut off what is below 0
    backward    for each tile of rows    sums of the gradient, and of it times the normalised x
                for each tile of rows    the gradient of x

Sums are taken in float32 or wider, in an order that depends on shapes alone, so that results are
the same in every run. The kernels run on CUDA, and on a CPU only with TRITON_INTERPRET=1, which is
slow and for tests.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

COLUMN_BYTES = 32
"""The bytes of a row that a program reads: what a GPU's memory gives at once."""
NUMBERS = 4096
"""The numbers of a tile."""
WARPS = 16
"""The warps of a program: 8 numbers for each thread."""


def tile(dtype: torch.dtype) -> dict[str, Any]:
    """The constants of both kernels for features of a dtype."""
    columns = COLUMN_BYTES // dtype.itemsize
    sum_type = tl.float64 if dtype == torch.float64 else tl.float32
    sizes = {"ROWS": NUMBERS // columns, "COLUMNS": columns}
    return sizes | {"SUM_TYPE": sum_type, "num_warps": WARPS, "enable_fp_fusion": True}


def forward(
    features: Tensor, norm: nn.BatchNorm1d, shortcut: Tensor | None, *, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise features [N, C], contiguous, as `norm` in its mode does; add `shortcut` [N, C]; and
    set to 0 what is below, if `relu`.

    Returns:
        The result [N, C]; and what `backward` takes, [C] each: the means, and the factors that they
        were scaled with.
    """
    rows, channels = features.shape
    constants = tile(features.dtype)
    output = torch.empty_like(features)
    wide = torch.promote_types(features.dtype, torch.float32)
    means, factors = features.new_empty((2, channels), dtype=wide)
    with torch.cuda.device_of(features):
        norm_kernel[(triton.cdiv(channels, constants["COLUMNS"]),)](
            features,
            norm.weight,
            norm.bias,
            shortcut,
            norm.running_mean,
            norm.running_var,
            norm.num_batches_tracked,
            output,
            means,
            factors,
            rows,
            channels,
            EPS=norm.eps,
            MOMENTUM=norm.momentum,
            OF_BATCH=norm.training,
            RELU=relu,
            **constants,
        )
    return output, means, factors


def backward(
    gradient: Tensor,
    features: Tensor,
    output: Tensor | None,
    weight: Tensor,
    statistics: tuple[Tensor, Tensor],
    *,
    of_batch: bool,
    shortcut: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of features [N, C], weight and bias [C], and shortcut [N, C], if there is one.

    Args:
        gradient: that of the output, [N, C], of which the channels of a row lie side by side.
        output: the output of `forward`, if it went through a ReLU.
        statistics: the means and factors that `forward` returned.
        of_batch: whether they were those of the batch.
    """
    rows, channels = features.shape
    constants = tile(features.dtype)
    of_features = torch.empty_like(features)
    of_weight, of_bias = torch.empty_like(weight), torch.empty_like(weight)
    of_shortcut = torch.empty_like(features) if shortcut else None
    with torch.cuda.device_of(features):
        norm_gradient_kernel[(triton.cdiv(channels, constants["COLUMNS"]),)](
            gradient,
            features,
            output,
            weight,
            *statistics,
            of_features,
            of_weight,
            of_bias,
            of_shortcut,
            gradient.stride(0),
            rows,
            channels,
            OF_BATCH=of_batch,
            **constants,
        )
    return of_features, of_weight, of_bias, of_shortcut


@triton.jit(do_not_specialize=["rows"])
def norm_kernel(
    features: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    shortcut: tl.tensor,
    running_mean: tl.tensor,
    running_var: tl.tensor,
    batches: tl.tensor,
    output: tl.tensor,
    means: tl.tensor,
    factors: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    EPS: tl.constexpr,
    MOMENTUM: tl.constexpr,
    OF_BATCH: tl.constexpr,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM_TYPE: tl.constexpr,
) -> None:
    """Compute output [rows, channels] from features of that shape, and write what `forward`
    returns beside it. The grid is (blocks of channels). There may be no shortcut."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    own = columns < channels
    mean = tl.load(running_mean + columns, mask=own, other=0.0).to(SUM_TYPE)
    variance = tl.load(running_var + columns, mask=own, other=0.0).to(SUM_TYPE)
    if OF_BATCH:
        before, before_variance = mean, variance
        mean, squares = statistics(features, columns, rows, channels, ROWS, COLUMNS, SUM_TYPE)
        variance = squares / rows
        moved = (1 - MOMENTUM) * before + MOMENTUM * mean
        tl.store(running_mean + columns, moved, mask=own)
        moved = (1 - MOMENTUM) * before_variance + MOMENTUM * (squares / (rows - 1))
        tl.store(running_var + columns, moved, mask=own)
        if tl.program_id(0) == 0:
            tl.store(batches, tl.load(batches) + 1)
    factor = tl.rsqrt(variance + EPS)
    tl.store(means + columns, mean, mask=own)
    tl.store(factors + columns, factor, mask=own)
    scale = factor * tl.load(weight + columns, mask=own, other=0.0).to(SUM_TYPE)
    shift = tl.load(bias + columns, mask=own, other=0.0).to(SUM_TYPE)
    for start in range(0, rows, ROWS):
        lanes = start + tl.arange(0, ROWS)
        places = lanes[:, None] * channels + columns[None, :]
        mask = (lanes < rows)[:, None] & own[None, :]
        x = tl.load(features + places, mask=mask, other=0.0).to(SUM_TYPE)
        y = (x - mean[None, :]) * scale[None, :] + shift[None, :]
        if shortcut is not None:
            y += tl.load(shortcut + places, mask=mask, other=0.0).to(SUM_TYPE)
        if RELU:
            y = tl.where(y < 0, 0.0, y)  # which leaves NaN as it is
        tl.store(output + places, y, mask=mask)


@triton.jit
def statistics(
    features: tl.tensor,
    columns: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM_TYPE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """The means of some columns of features [rows, channels], and the sums of the squares of the
    distances from them."""
    mean = tl.zeros((ROWS, COLUMNS), dtype=SUM_TYPE)  # those of every ROWS-th row
    squares = tl.zeros((ROWS, COLUMNS), dtype=SUM_TYPE)
    lanes = tl.arange(0, ROWS)
    for start in range(0, rows, ROWS):
        there = lanes < rows - start
        mask = there[:, None] & (columns < channels)[None, :]
        places = (start + lanes)[:, None] * channels + columns[None, :]
        x = tl.load(features + places, mask=mask, other=0.0).to(SUM_TYPE)
        step = tl.where(mask, x - mean, 0.0)
        mean += step / (start // ROWS + 1)
        squares += step * (x - mean)
    # The lanes together: a lane's squares lie around its own mean, which lies around that of all.
    count = tl.maximum((rows - lanes + ROWS - 1) // ROWS, 0).to(SUM_TYPE)[:, None]
    total = tl.sum(mean * count, 0) / rows
    apart = mean - total[None, :]
    return total, tl.sum(squares + count * apart * apart, 0)


@triton.jit(do_not_specialize=["rows"])
def norm_gradient_kernel(
    gradient: tl.tensor,
    features: tl.tensor,
    output: tl.tensor,
    weight: tl.tensor,
    means: tl.tensor,
    factors: tl.tensor,
    of_features: tl.tensor,
    of_weight: tl.tensor,
    of_bias: tl.tensor,
    of_shortcut: tl.tensor,
    gradient_step: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    OF_BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM_TYPE: tl.constexpr,
) -> None:
    """Compute the gradients of all that `norm_kernel` takes. Rows of the gradient lie
    `gradient_step` numbers apart. There is an output only where there was a ReLU, and there may be
    no shortcut."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    own = columns < channels
    mean = tl.load(means + columns, mask=own, other=0.0)[None, :]
    factor = tl.load(factors + columns, mask=own, other=0.0)[None, :]
    scale = factor * tl.load(weight + columns, mask=own, other=0.0).to(SUM_TYPE)[None, :]
    sums = tl.zeros((ROWS, COLUMNS), dtype=SUM_TYPE)
    products = tl.zeros((ROWS, COLUMNS), dtype=SUM_TYPE)
    for start in range(0, rows, ROWS):
        lanes = start + tl.arange(0, ROWS)
        places = lanes[:, None] * channels + columns[None, :]
        mask = (lanes < rows)[:, None] & own[None, :]
        given = gradient + lanes[:, None] * gradient_step + columns[None, :]
        g = before_relu(given, output, places, mask, SUM_TYPE)
        x = tl.load(features + places, mask=mask, other=0.0).to(SUM_TYPE)
        if of_shortcut is not None:
            tl.store(of_shortcut + places, g, mask=mask)
        sums += g
        products += g * (x - mean) * factor
    of_all, of_products = tl.sum(sums, 0), tl.sum(products, 0)
    tl.store(of_bias + columns, of_all, mask=own)
    tl.store(of_weight + columns, of_products, mask=own)
    for start in range(0, rows, ROWS):
        lanes = start + tl.arange(0, ROWS)
        places = lanes[:, None] * channels + columns[None, :]
        mask = (lanes < rows)[:, None] & own[None, :]
        given = gradient + lanes[:, None] * gradient_step + columns[None, :]
        g = before_relu(given, output, places, mask, SUM_TYPE)
        if OF_BATCH:
            x = tl.load(features + places, mask=mask, other=0.0).to(SUM_TYPE)
            near = (x - mean) * factor * (of_products / rows)[None, :]
            g = g - (of_all / rows)[None, :] - near
        tl.store(of_features + places, g * scale, mask=mask)


@triton.jit
def before_relu(
    given: tl.tensor, output: tl.tensor, places: tl.tensor, mask: tl.tensor, SUM_TYPE: tl.constexpr
) -> tl.tensor:
    """A tile of the gradient before the ReLU, from that after it; the same where there is none."""
    g = tl.load(given, mask=mask, other=0.0).to(SUM_TYPE)
    if output is not None:
        g = tl.where(tl.load(output + places, mask=mask, other=0.0) > 0, g, 0.0)
    return g
