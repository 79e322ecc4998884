"""Convolution with Triton: gather, multiply and sum in one kernel, with nothing stored in between.

Forward. A program (a block of GPU threads) computes a tile of ROWS outputs x COLUMNS channels:

    for each offset k:                       neighbours [K, M], one input row for each output
        gather the tile's input rows         x [ROWS, DEPTH], DEPTH input channels at a time
        load the offset's weight             w [DEPTH, COLUMNS]
        total += x @ w                       in registers
    store total                              every output is written once

Outputs are sorted so that those of a tile have inputs under the same offsets
(`sparsepipe.engine.layouts.Neighbours`), and a tile skips the offsets under which it has none.

Backward. The gradient of the weight is summed in two steps: a program sums a part of the outputs
under one offset, and the sums of the parts are added afterwards. It, too, skips where there is no
input. The gradient of the features is the same computation as forward, with the map and the weight
transposed. More programs of the same launch add the sums of the parts.

Nothing is added atomically, and tiles depend on shapes and dtypes alone, since nothing is tuned
while it runs. So results are the same in every run. float16 and bfloat16 are summed in float32.
float32 is rounded to TF32 only if PyTorch's own products are
(`torch.backends.cuda.matmul.fp32_precision`); otherwise its products are as exact as its sums.

The kernels run on CUDA, and on a CPU only with TRITON_INTERPRET=1, which is slow and for tests.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsepipe.engine.backends.triton_tiles import (
    ADDED,
    PROGRAMS,
    TILES,
    convolution_tile,
    weight_gradient_tile,
)
from sparsepipe.engine.kernel_map import KernelMap
from systems.schema import InputError


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
    partial = _weight_gradient(gradient, features, weight, kernel_map) if needed[1] else None
    if not needed[0] or not features.numel():
        of_features = torch.empty_like(features) if needed[0] else None
        return of_features, None if partial is None else partial.sum(0).to(weight.dtype)
    of_weight = None if partial is None else weight.new_empty(weight.shape)
    transposed = weight.transpose(1, 2)
    return _convolved(gradient, transposed, kernel_map.transpose, partial, of_weight), of_weight


def _convolved(
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    partial: Tensor | None = None,
    total: Tensor | None = None,
) -> Tensor:
    """Convolve features [N, Cin] with weight [K, Cin, Cout], of any strides, to [M, Cout]. Where
    there are partial sums [P, ...], the same launch writes their sum into `total` [...]."""
    offsets, inner, outer = weight.shape
    first, step = weight, weight.stride(0)
    if kernel_map.opposite:  # the table of the map itself, and the weights from the last one on
        kernel_map, first, step = kernel_map.transpose, weight[-1], -step
    neighbours = kernel_map.neighbours
    height = len(neighbours.outputs)
    output = features.new_empty((height, outer))
    if not output.numel():
        return output
    tile = convolution_tile(features.dtype, inner, outer)
    tiles, across = triton.cdiv(height, tile["ROWS"]), triton.cdiv(outer, tile["COLUMNS"])
    parts, numbers = (0, 0) if partial is None else (len(partial), partial[0].numel())
    with torch.cuda.device_of(features):
        convolution_kernel[tiles + triton.cdiv(numbers, ADDED * across), across](
            features.contiguous(),
            first,
            output,
            neighbours.inputs,
            neighbours.outputs,
            height,
            offsets,
            inner,
            outer,
            step,
            *weight.stride()[1:],
            tiles,
            partial,
            total,
            parts,
            numbers,
            **tile,
        )
    return output


def _weight_gradient(
    gradient: Tensor, features: Tensor, weight: Tensor, kernel_map: KernelMap
) -> Tensor:
    """The gradient of the weight [K, Cin, Cout], for the gradient [M, Cout] of the output, in parts
    that are to be added: [P, K, Cin, Cout], in float32 or wider."""
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
    return partial


@triton.jit(do_not_specialize=["height", "tiles", "parts"])
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
    tiles: tl.tensor,
    partial: tl.tensor,
    total: tl.tensor,
    parts: tl.tensor,
    numbers: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
    SUM_TYPE: tl.constexpr,
    ADDED: tl.constexpr,
) -> None:
    """Compute output[order[m], :] = sum over offsets k of features[neighbours[k, m], :] @
    weight[k].

    The grid is (tiles of outputs, tiles of output channels). `height` is the number of outputs,
    `inner` and `outer` are Cin and Cout. A neighbour of -1 says that there is no input. Where there
    are parts to add, the grid is longer than `tiles`.
    """
    if partial is not None and tl.program_id(0) >= tiles:
        program = (tl.program_id(0) - tiles) * tl.num_programs(1) + tl.program_id(1)
        add_parts(partial, total, parts, numbers, program, ADDED, SUM_TYPE)
        return
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


@triton.jit
def add_parts(
    partial: tl.tensor,
    total: tl.tensor,
    parts: tl.tensor,
    numbers: tl.tensor,
    program: tl.tensor,
    ADDED: tl.constexpr,
    SUM_TYPE: tl.constexpr,
) -> None:
    """Compute ADDED of the numbers total [numbers] = the sum over p of partial [parts, numbers]."""
    places = program.to(tl.int64) * ADDED + tl.arange(0, ADDED)
    added = tl.zeros((ADDED,), dtype=SUM_TYPE)
    for _ in range(parts):
        added += tl.load(partial + places, mask=places < numbers, other=0.0)
        partial += numbers
    tl.store(total + places, added, mask=places < numbers)


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
