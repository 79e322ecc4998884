"""Convolution with PyTorch's operators: gather, multiply, sum by output row, block after block.

For a block of output rows (see `sparsepipe.engine.layouts`):

    1. gather the input rows of all pairs                 x [p, Cin]
    2. multiply them, offset by offset, by the weights    y [p, Cout]
    3. sum y by output row, in a fixed order              output [rows, Cout]

So results are the same in every run. On a CPU, blocks are so small that x and y, two buffers that
all blocks share, stay in the cache: x and y for all pairs at once, a multiple of the features,
would go through memory, into pages that the system must clear first. On CUDA there is one block,
since starting a kernel costs more. float16 and bfloat16 are computed in float32, and results
rounded once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsepipe.engine.backends.narrow import in_wide_types
from sparsepipe.engine.kernel_map import KernelMap
from sparsepipe.engine.layouts import Block

BUFFER_BYTES = 8 * 2**20
"""The size of the buffers of a block on a CPU. Half or twice as much makes little difference."""
PAIRS_PER_CHANNEL = 2
"""The smallest average number of pairs that an offset should have in a block, for each channel of
input and output. With fewer, bringing the weight into the cache takes as long as the product."""


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
        torch.index_select(features, 0, block.inputs, out=x)  # 1. gather
        for k, x_k, y_k in zip(
            block.offsets, x.split(block.counts), y.split(block.counts), strict=True
        ):
            torch.mm(x_k, weights[k], out=y_k)  # 2. multiply
        output[block.rows] = _summed(y, block)  # 3. sum
    return output


@in_wide_types
def backward(
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    kernel_map: KernelMap,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """See `sparsepipe.engine.backends.Backend`.

    Blocks are blocks of input rows here. Features and gradients are gathered again, since keeping
    gathered rows from the forward pass would take several times the memory of the features.
    """
    _, inner, outer = weight.shape
    feature_gradient = torch.empty_like(features) if needed[0] else None
    weight_gradient = torch.empty_like(weight)
    blocks = _blocks(kernel_map.transpose, features, inner + outer)
    x_buffer, y_buffer = _buffers(blocks, features, inner, outer)
    transposed, weight_gradients = weight.transpose(1, 2).unbind(), weight_gradient.unbind()
    begun: set[int] = set()  # the offsets whose weight gradient has a first product
    for block in blocks:
        x, y = x_buffer[: len(block.inputs)], y_buffer[: len(block.inputs)]
        torch.index_select(gradient, 0, block.inputs, out=y)
        torch.index_select(features, 0, block.outputs, out=x)
        for k, x_k, y_k in zip(
            block.offsets, x.split(block.counts), y.split(block.counts), strict=True
        ):
            if needed[1]:
                _add_product(weight_gradients[k], x_k.t(), y_k, first=k not in begun)
                begun.add(k)
            if needed[0]:
                torch.mm(y_k, transposed[k], out=x_k)  # overwrites x_k, which is not needed again
        if feature_gradient is not None:
            feature_gradient[block.rows] = _summed(x, block)
    for k in set(range(len(weight))) - begun:
        weight_gradients[k].zero_()
    return feature_gradient, weight_gradient if needed[1] else None


def _blocks(kernel_map: KernelMap, features: Tensor, channels: int) -> list[Block]:
    """The blocks of a kernel map, as large as the device wants them; `channels` are Cin + Cout."""
    outputs, pairs = len(kernel_map.output_keys), max(len(kernel_map.output_rows), 1)
    if features.device.type != "cpu":
        return kernel_map.blocks(max(outputs, 1))
    affordable = BUFFER_BYTES // (channels * features.element_size())
    least = PAIRS_PER_CHANNEL * channels * len(kernel_map.counts)
    rows = max(affordable, least) * outputs // pairs
    return kernel_map.blocks(1 << max(rows, 1).bit_length() - 1)  # powers of 2, so layers share


def _buffers(blocks: list[Block], like: Tensor, inner: int, outer: int) -> tuple[Tensor, Tensor]:
    """Buffers [p, inner] and [p, outer] for the block with the most pairs."""
    longest = max((len(block.inputs) for block in blocks), default=0)
    return like.new_empty((longest, inner)), like.new_empty((longest, outer))


def _summed(values: Tensor, block: Block) -> Tensor:
    """Sum the values [p, C] of a block's pairs by output row, to [rows, C]."""
    return F.embedding_bag(block.order, values, block.starts, mode="sum", include_last_offset=True)


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """Add left @ right to `total`, which is overwritten if this is the `first` product."""
    if first:
        torch.mm(left, right, out=total)
    else:
        total.addmm_(left, right)
