"""Convolution with PyTorch's operators: gather, multiply, sum by output row, block after block.

For a block of output rows the input rows of all pairs are gathered at once, multiplied offset by
offset, and summed row by row in a fixed order, so results are the same in every run. On a CPU
blocks are as small as keeps the buffers, which all blocks share, in the cache: rows of all pairs at
once, a multiple of the features, would go through memory and into pages that the system must clear
first. On CUDA there is one block, since launches cost more. The native backend comes here where
nothing faster runs. float16 and bfloat16 are computed in float32, and the results rounded once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsepipe.engine.backends.narrow import in_wide_types
from sparsepipe.engine.kernel_map import KernelMap
from sparsepipe.engine.layouts import Block

BUFFER_BYTES = 8 * 2**20
"""What a block's buffers may take on a CPU. Half or twice as much makes little difference."""
PAIRS_PER_CHANNEL = 2
"""Pairs of a block's offset, on average, at least, for each channel of input and output: fewer, and
bringing the weight into the cache takes as long as the product."""


@in_wide_types
def forward(features: Tensor, weight: Tensor, kernel_map: KernelMap) -> Tensor:
    """See `sparsepipe.engine.backends.Backend`."""
    _, inner, outer = weight.shape
    output = features.new_empty((len(kernel_map.output_keys), outer))
    blocks = _blocks(kernel_map, features, inner + outer)
    gathered, products = _buffers(blocks, features, inner, outer)
    weights = weight.unbind()
    for block in blocks:
        x, y = gathered[: len(block.inputs)], products[: len(block.inputs)]
        torch.index_select(features, 0, block.inputs, out=x)
        for k, x_k, y_k in zip(
            block.offsets, x.split(block.counts), y.split(block.counts), strict=True
        ):
            torch.mm(x_k, weights[k], out=y_k)
        output[block.rows] = _summed(y, block)
    return output


@in_wide_types
def backward(
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """See `sparsepipe.engine.backends.Backend`. Blocks are of input rows here; both sides are
    gathered again, since keeping them would take several times the memory of the features."""
    _, inner, outer = weight.shape
    of_features = torch.empty_like(features) if needed[0] else None
    of_weight = torch.empty_like(weight)
    blocks = _blocks(kernel_map.transpose, features, inner + outer)
    x_buffer, y_buffer = _buffers(blocks, features, inner, outer)
    transposed, of_weights = weight.transpose(1, 2).unbind(), of_weight.unbind()
    begun: set[int] = set()
    for block in blocks:
        x, y = x_buffer[: len(block.inputs)], y_buffer[: len(block.inputs)]
        torch.index_select(gradient, 0, block.inputs, out=y)
        torch.index_select(features, 0, block.outputs, out=x)
        for k, x_k, y_k in zip(
            block.offsets, x.split(block.counts), y.split(block.counts), strict=True
        ):
            if needed[1]:
                _add_product(of_weights[k], x_k.t(), y_k, first=k not in begun)
                begun.add(k)
            if needed[0]:
                torch.mm(y_k, transposed[k], out=x_k)
        if of_features is not None:
            of_features[block.rows] = _summed(x, block)
    for k in set(range(len(weight))) - begun:
        of_weights[k].zero_()
    return of_features, of_weight if needed[1] else None


def _blocks(kernel_map: KernelMap, features: Tensor, channels: int) -> list[Block]:
    outputs, pairs = len(kernel_map.output_keys), max(len(kernel_map.output_rows), 1)
    if features.device.type != "cpu":
        return kernel_map.blocks(max(outputs, 1))
    affordable = BUFFER_BYTES // (channels * features.element_size())
    least = PAIRS_PER_CHANNEL * channels * len(kernel_map.counts)
    rows = max(affordable, least) * outputs // pairs
    return kernel_map.blocks(1 << max(rows, 1).bit_length() - 1)  # few sizes, so layers share them


def _buffers(blocks: list[Block], like: Tensor, inner: int, outer: int) -> tuple[Tensor, Tensor]:
    longest = max((len(block.inputs) for block in blocks), default=0)
    return like.new_empty((longest, inner)), like.new_empty((longest, outer))


def _summed(values: Tensor, block: Block) -> Tensor:
    """[p, C] of a block's pairs to [rows, C]."""
    return F.embedding_bag(block.order, values, block.starts, mode="sum", include_last_offset=True)


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    if first:
        torch.mm(left, right, out=total)
    else:
        total.addmm_(left, right)
