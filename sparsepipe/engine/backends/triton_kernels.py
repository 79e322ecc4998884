"""Convolution with Triton: gather, multiply and sum in one kernel, with nothing stored in between.

Forward. A program (a block of GPU threads) computes a tile of ROWS outputs x COLUMNS channels:

    for each offset k:                       neighbours [K, M], one input row for each output
        gather the tile's input rows         x [ROWS, DEPTH], DEPTH input channels at a time
        load the offset's weight             w [DEPTH, COLUMNS]
        total += x @ w                       in registers
    store total                              every output is written once

Outputs are sorted so that those of a tile have inputs under the same offsets
(`sparsepipe.engine.layouts.Neighbours`), and a tile skips the offsets under which it has none.

Backward. The gradient of the features is the same computation with the map and the weight
transposed. The gradient of the weight is summed in two steps: a program sums a part of the outputs
under one offset, and the sums of the parts are added afterwards. It, too, skips where there is no
input.

Nothing is added atomically, and tiles depend on shapes and dtypes alone, since nothing is tuned
while it runs. So results are the same in every run. float16 and bfloat16 are summed in float32.
float32 is rounded to TF32 only if PyTorch's own products are
(`torch.backends.cuda.matmul.allow_tf32`).

The kernels run on CUDA, and on a CPU only with TRITON_INTERPRET=1, which is slow and for tests.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsepipe.engine.kernel_map import KernelMap
from systems.schema import InputError

TILES = {
    torch.float16: (64, 128, 64),
    torch.bfloat16: (64, 128, 64),
    torch.float32: (64, 64, 32),
    torch.float64: (32, 32, 16),
}
"""The largest rows, columns and depth of a tile for each dtype: what fits into registers with 4
warps."""
LEAST_CHANNELS = 16
"""The smallest side of a tile, since the hardware multiplies 16 x 16 numbers at once."""
PROGRAMS = 1024
"""How many programs compute the gradient of a weight, where there are enough outputs. It is several
for each multiprocessor of any GPU. The number is fixed so that all GPUs add in the same order."""


def forward(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """See `sparsepipe.engine.backends.Backend`.

    Raises:
        InputError: the kernels do not serve the dtype or device of the features.
    """
    _check(features)
    return _convolved(features, weight, kernel_map)


def backward(
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """See `sparsepipe.engine.backends.Backend`."""
    feature_gradient = weight_gradient = None
    if needed[0]:
        feature_gradient = _convolved(gradient, weight.transpose(1, 2), kernel_map.transpose)
    if needed[1]:
        weight_gradient = _weight_gradient(gradient, features, weight, kernel_map)
    return feature_gradient, weight_gradient


def _convolved(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """Convolve features [N, Cin] with weight [K, Cin, Cout], of any strides, to [M, Cout]."""
    offsets, inner, outer = weight.shape
    neighbours = kernel_map.neighbours
    height = len(neighbours.outputs)
    output = features.new_empty((height, outer))
    if not output.numel():
        return output
    tile = convolution_tile(features.dtype, inner, outer)
    grid = triton.cdiv(height, tile["ROWS"]), triton.cdiv(outer, tile["COLUMNS"])
    with torch.cuda.device_of(features):
        convolution_kernel[grid](
            features.contiguous(),
            weight,
            output,
            neighbours.inputs,
            neighbours.outputs,
            height,
            offsets,
            inner,
            outer,
            *weight.stride(),
            **tile,
        )
    return output


def _weight_gradient(
    gradient: Tensor, features: Tensor, weight: Tensor, kernel_map: KernelMap
) -> Tensor:
    """The gradient of the weight [K, Cin, Cout], for the gradient [M, Cout] of the output."""
    offsets, inner, outer = weight.shape
    tile = weight_gradient_tile(features.dtype, inner, outer)
    tiles = triton.cdiv(inner, tile["ROWS"]) * triton.cdiv(outer, tile["COLUMNS"])
    neighbours = kernel_map.neighbours
    height = len(neighbours.outputs)
    # As many parts as keep the GPU busy, but none without outputs for a step of its loop.
    useful = triton.cdiv(height, tile["DEPTH"])
    parts = max(min(triton.cdiv(PROGRAMS, offsets * tiles), useful), 1)
    wide = torch.promote_types(weight.dtype, torch.float32)
    partial = weight.new_empty((parts, *weight.shape), dtype=wide)
    if partial.numel():
        with torch.cuda.device_of(features):
            weight_gradient_kernel[offsets, parts, tiles](
                features.contiguous(),
                gradient.contiguous(),
                partial,
                neighbours.inputs,
                neighbours.outputs,
                height,
                offsets,
                parts,
                inner,
                outer,
                **tile,
            )
    return partial.sum(0).to(weight.dtype)


@triton.jit(do_not_specialize=["height"])
def convolution_kernel(
    features: tl.tensor,
    weight: tl.tensor,
    output: tl.tensor,
    neighbours: tl.tensor,
    order: tl.tensor,
    height: tl.tensor,
    offsets: tl.tensor,
    inner: tl.tensor,
    outer: tl.tensor,
    weight_offset_stride: tl.tensor,
    weight_inner_stride: tl.tensor,
    weight_outer_stride: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    SUM_TYPE: tl.constexpr,
) -> None:
    """Compute output[order[m], :] = sum over offsets k of features[neighbours[k, m], :] @
    weight[k].

    The grid is (tiles of outputs, tiles of output channels). `height` is the number of outputs,
    `inner` and `outer` are Cin and Cout. A neighbour of -1 says that there is no input.
    """
    # This program's tile: columns m of the table, and output channels.
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    total = tl.zeros((ROWS, COLUMNS), dtype=SUM_TYPE)
    for _ in range(offsets):
        # The input row of each output of the tile under this offset. Skip the offset if none has.
        sources = tl.load(neighbours + rows, mask=rows < height, other=-1)
        if tl.max(sources, 0) >= 0:
            x = features + sources.to(tl.int64)[:, None] * inner
            w = weight + columns[None, :] * weight_outer_stride
            # Gather DEPTH input channels at a time, multiply them by the weight, add to the tile.
            # Masked numbers are 0: outputs without an input, and channels beyond the last.
            for start in range(0, inner, DEPTH):
                channels = start + depth
                x_mask = (sources >= 0)[:, None] & (channels < inner)[None, :]
                w_mask = (channels < inner)[:, None] & (columns < outer)[None, :]
                x_tile = tl.load(x + channels[None, :], mask=x_mask, other=0.0)
                w_tile = tl.load(
                    w + channels[:, None] * weight_inner_stride, mask=w_mask, other=0.0
                )
                total = tl.dot(x_tile, w_tile, total, input_precision=PRECISION, out_dtype=SUM_TYPE)
        neighbours += height  # the next row of the table
        weight += weight_offset_stride
    # Put the rows, which were sorted for the tiles' sake, where they belong.
    targets = tl.load(order + rows, mask=rows < height, other=0)
    mask = (rows < height)[:, None] & (columns < outer)[None, :]
    tl.store(output + targets[:, None] * outer + columns[None, :], total, mask=mask)


@triton.jit(do_not_specialize=["height"])
def weight_gradient_kernel(
    features: tl.tensor,
    gradient: tl.tensor,
    partial: tl.tensor,
    neighbours: tl.tensor,
    order: tl.tensor,
    height: tl.tensor,
    offsets: tl.tensor,
    parts: tl.tensor,
    inner: tl.tensor,
    outer: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    SUM_TYPE: tl.constexpr,
) -> None:
    """Compute partial[p, k] = the sum of features[neighbours[k, m]]^T @ gradient[order[m]] over the
    columns m of part p of the table, where there is a neighbour.

    The grid is (offsets, parts, tiles of the weight [Cin, Cout]). The rest is as in
    `convolution_kernel`.
    """
    # This program's tile: rows are input channels and columns are output channels.
    offset = tl.program_id(0)
    part = tl.program_id(1)
    across = tl.cdiv(outer, COLUMNS)
    rows = tl.program_id(2) // across * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(2) % across * COLUMNS + tl.arange(0, COLUMNS)
    # This program's share of the table's columns: from `low` to before `high`.
    neighbours += offset.to(tl.int64) * height
    length = tl.cdiv(height, parts)
    low = part * length
    high = tl.minimum(low + length, height)
    total = tl.zeros((ROWS, COLUMNS), dtype=SUM_TYPE)
    for start in range(low, high, DEPTH):
        # Gather both rows of DEPTH pairs, and add the sum of their outer products to the tile.
        places = start + tl.arange(0, DEPTH)
        sources = tl.load(neighbours + places, mask=places < high, other=-1).to(tl.int64)
        if tl.max(sources, 0) >= 0:
            targets = tl.load(order + places, mask=places < high, other=0)
            x_mask = (sources >= 0)[:, None] & (rows < inner)[None, :]
            y_mask = (sources >= 0)[:, None] & (columns < outer)[None, :]
            x = features + sources[:, None] * inner + rows[None, :]
            y = gradient + targets[:, None] * outer + columns[None, :]
            x_tile = tl.load(x, mask=x_mask, other=0.0)
            y_tile = tl.load(y, mask=y_mask, other=0.0)
            total = tl.dot(
                tl.trans(x_tile), y_tile, total, input_precision=PRECISION, out_dtype=SUM_TYPE
            )
    partial += (part.to(tl.int64) * offsets + offset) * inner * outer
    mask = (rows < inner)[:, None] & (columns < outer)[None, :]
    tl.store(partial + rows[:, None] * outer + columns[None, :], total, mask=mask)


def convolution_tile(dtype: torch.dtype, inner: int, outer: int) -> dict[str, Any]:
    """The constants of `convolution_kernel`: ROWS outputs x COLUMNS output channels in a tile, and
    DEPTH input channels that are summed at once."""
    rows, columns, depth = TILES[dtype]
    shape = {"ROWS": rows, "COLUMNS": _part(outer, columns), "DEPTH": _part(inner, depth)}
    return shape | _arithmetic(dtype)


def weight_gradient_tile(dtype: torch.dtype, inner: int, outer: int) -> dict[str, Any]:
    """The constants of `weight_gradient_kernel`: ROWS input channels x COLUMNS output channels in a
    tile, and DEPTH outputs that are summed at once."""
    rows, columns, depth = TILES[dtype]
    shape = {"ROWS": _part(inner, rows), "COLUMNS": _part(outer, columns), "DEPTH": depth}
    return shape | _arithmetic(dtype)


def _part(channels: int, most: int) -> int:
    """The side of a tile over some channels: the next power of 2, at least 16 and at most
    `most`."""
    return min(max(triton.next_power_of_2(channels), LEAST_CHANNELS), most)


def _arithmetic(dtype: torch.dtype) -> dict[str, Any]:
    """The constants of both kernels that say how numbers are multiplied and summed."""
    sum_type = tl.float64 if dtype == torch.float64 else tl.float32
    return {"PRECISION": _precision(), "SUM_TYPE": sum_type, "enable_fp_fusion": True}


def _precision() -> str:
    """Whether float32 is rounded to TF32 in products ("tf32") or not ("ieee"), as in PyTorch."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # since PyTorch 2.9, where allow_tf32 may raise
        return "tf32" if matmul.fp32_precision == "tf32" else "ieee"
    return "tf32" if matmul.allow_tf32 else "ieee"


def _check(features: Tensor) -> None:
    """Raise InputError if the kernels do not serve the dtype or device of the features."""
    if features.dtype not in TILES:
        raise InputError(
            f"features are {features.dtype}: backend 'triton' has float16, bfloat16, float32 and "
            "float64"
        )
    if not features.is_cuda and isinstance(convolution_kernel, triton.JITFunction):
        raise InputError(
            f"backend 'triton' on {features.device}: it runs on CUDA (or, for tests, with "
            "TRITON_INTERPRET=1 in the environment); take 'native'"
        )
