"""Tables of neighbours hold a kernel map's pairs, in an order that leaves tiles less to do."""

import pytest
import torch
from torch import Tensor

from sparsepipe.engine.kernel_map import Kernel, KernelMap
from tests.sparsepipe.clouds import random_tensor

KERNELS = [Kernel(1, 1, 1, 1), Kernel(3, 1, 1, 1), Kernel(2, 1, 1, 2), Kernel(5, 1, 1, 1)]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_holds_the_pairs_of_the_map(kernel: Kernel, transposed: bool) -> None:
    kernel_map = _map(kernel, transposed)
    table = kernel_map.neighbours
    height = len(kernel_map.output_keys)
    assert table.inputs.shape == (len(kernel_map.counts), height)
    assert table.outputs.sort().values.tolist() == list(range(height))
    offsets, columns = (table.inputs >= 0).nonzero(as_tuple=True)
    held = torch.stack([offsets, table.inputs[offsets, columns], table.outputs[columns]])
    assert sorted(held.t().tolist()) == sorted(_pairs(kernel_map).t().tolist())
    assert kernel_map.neighbours is table


def test_outputs_with_the_same_offsets_are_side_by_side() -> None:
    """From stride 2 back to 1 with kernel 2, each output has one input, under one of 8 offsets."""
    present = _map(Kernel(2, 1, 1, 2), True).neighbours.inputs >= 0
    first = present.int().argmax(0)
    assert bool((present.sum(0) == 1).all())
    assert bool((first.diff() >= 0).all())


def _map(kernel: Kernel, transposed: bool) -> KernelMap:
    maps = random_tensor(voxels=400).maps
    maps.coarsen(1, kernel.coarse_stride)
    return maps.kernel_map(kernel, transposed=transposed)


def _pairs(kernel_map: KernelMap) -> Tensor:
    """[3, P]: offset, input row, output row."""
    bounds = kernel_map.firsts.tolist()
    assert bounds[-1] == len(kernel_map.input_rows)
    offsets = torch.arange(len(kernel_map.counts)).repeat_interleave(kernel_map.firsts.diff())
    return torch.stack([offsets, kernel_map.input_rows, kernel_map.output_rows])
