"""A kernel map's pairs are those of a dictionary; blocks hold all of them."""

from unittest import mock

import torch
from hypothesis import given, strategies as st
from torch import Tensor

from sparsepipe.engine import compiled_maps
from sparsepipe.engine.coordinates import coarsened, kernel_offsets, pack, unpack
from sparsepipe.engine.kernel_map import Kernel, KernelMap, build
from sparsepipe.engine.layouts import pairs_of
from sparsepipe.engine.lookup import Wanted, look_up
from tests.sparsepipe.clouds import random_keys

VOXEL = st.tuples(st.integers(0, 2), *3 * [st.integers(-4, 4)])
CLOUD = st.lists(VOXEL, max_size=60, unique=True)
Pairs = set[tuple[int, int, int]]


@given(CLOUD, st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_pairs_are_those_of_a_dictionary(
    voxels: list[tuple[int, ...]], size: int, stride: int, dilation: int, fine_stride: int
) -> None:
    fine = pack(torch.tensor(voxels, dtype=torch.int32).view(-1, 4) * _steps(fine_stride))
    fine = fine.sort().values
    coarse = coarsened(fine, fine_stride * stride) if stride > 1 else fine
    kernel = Kernel(size, dilation, fine_stride, fine_stride * stride)
    found = build(fine, coarse, kernel)
    assert _pairs(found) == _by_dictionary(fine, coarse, kernel)
    assert sum(found.counts) == len(_pairs(found))
    assert _pairs(found.transpose) == {(k, o, i) for k, i, o in _pairs(found)}
    # From the table, as on other devices, in the same order.
    inputs, outputs, counts = pairs_of(look_up(Wanted(fine, coarse, kernel, False)))
    assert torch.equal(inputs, found.input_rows)
    assert torch.equal(outputs, found.output_rows)
    assert tuple(counts.tolist()) == found.counts


@given(CLOUD, st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_what_is_compiled_finds_what_pytorch_finds(
    voxels: list[tuple[int, ...]], size: int, stride: int, far: bool
) -> None:
    coordinates = torch.tensor(voxels, dtype=torch.int32).view(-1, 4)
    if far and len(voxels):
        coordinates[-1, 1:] = torch.tensor([-30000, 20000, 10000])  # in a box that is too empty
    fine = pack(coordinates).sort().values
    coarse = coarsened(fine, stride)
    found = compiled_maps.coarsened(fine, stride, 3)
    if len(voxels) and not far and compiled_maps.functions():
        assert found is not None
    assert found is None or torch.equal(found, coarse)
    kernel_map = build(fine, coarse, Kernel(size, 1, 1, stride))
    assert _pairs(kernel_map) == _by_dictionary(fine, coarse, kernel_map.kernel)
    by_output = kernel_map.starts, kernel_map.inputs_by_output
    with mock.patch.object(compiled_maps, "functions", return_value=None):
        plain = build(fine, coarse, kernel_map.kernel)
        assert torch.equal(by_output[0], plain.starts)
        assert torch.equal(by_output[1], plain.inputs_by_output)


@given(CLOUD, st.integers(1, 3), st.integers(1, 2), st.integers(1, 70))
def test_blocks_hold_all_pairs_by_row(
    voxels: list[tuple[int, ...]], size: int, stride: int, rows: int
) -> None:
    fine = pack(torch.tensor(voxels, dtype=torch.int32).view(-1, 4)).sort().values
    coarse = coarsened(fine, stride) if stride > 1 else fine
    _check_blocks(build(fine, coarse, Kernel(size, 1, 1, stride)), rows)


def test_blocks_of_a_symmetric_kernel_between_other_voxels() -> None:
    """The mirror image of such a map is another map."""
    some, others = random_keys(1, 40), random_keys(2, 30)
    _check_blocks(build(some, others, Kernel(3, 1, 1, 1)), 7)


def _check_blocks(kernel_map: KernelMap, rows: int) -> None:
    """Blocks of so many output rows have all pairs of the map, and of the swapped one."""
    for swapped in (kernel_map, kernel_map.transpose):
        seen: Pairs = set()
        end = 0
        for block in swapped.blocks(rows):
            assert block.rows.start == end
            end = block.rows.stop
            numbers = [
                k for k, n in zip(block.offsets, block.counts, strict=True) for _ in range(n)
            ]
            inputs, outputs = block.inputs.tolist(), block.outputs.tolist()
            seen |= set(zip(numbers, inputs, outputs, strict=True))
            by_row = block.outputs[block.order.long()]
            expected = torch.arange(block.rows.start, end).repeat_interleave(block.starts.diff())
            assert torch.equal(by_row.long(), expected)
        assert end == len(swapped.output_keys)
        assert seen == _pairs(swapped)


def test_pairs_ascend_within_an_offset() -> None:
    keys = torch.unique(pack(torch.randint(-4, 5, (300, 4)).abs()))
    found = build(keys, coarsened(keys, 2), Kernel(3, 1, 1, 2))
    for rows in (found.input_rows, found.output_rows):
        assert all(bool((part.diff() > 0).all()) for part in rows.split(list(found.counts)))


def _steps(stride: int) -> Tensor:
    return torch.tensor([1, stride, stride, stride], dtype=torch.int32)


def _pairs(found: KernelMap) -> Pairs:
    numbers = [k for k, count in enumerate(found.counts) for _ in range(count)]
    return set(zip(numbers, found.input_rows.tolist(), found.output_rows.tolist(), strict=True))


def _by_dictionary(fine: Tensor, coarse: Tensor, kernel: Kernel) -> Pairs:
    rows = {tuple(voxel): row for row, voxel in enumerate(unpack(fine).tolist())}
    pairs = set()
    for k, (x, y, z) in enumerate(kernel_offsets(kernel.size, kernel.spacing)):
        for output, voxel in enumerate(unpack(coarse).tolist()):
            neighbour = (voxel[0], voxel[1] + x, voxel[2] + y, voxel[3] + z)
            if neighbour in rows:
                pairs.add((k, rows[neighbour], output))
    return pairs
