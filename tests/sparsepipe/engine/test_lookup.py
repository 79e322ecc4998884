"""Tables of neighbours, by PyTorch's operators and by Triton's kernel, hold the same rows."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st

from sparsepipe.engine.coordinates import coarsened, unpack
from sparsepipe.engine.kernel import Kernel
from sparsepipe.engine.lookup import MASK_BITS, Table, Wanted, look_up, searches
from tests.sparsepipe.clouds import random_keys
from tests.sparsepipe.engine.interpreted import run_interpreted

SIZES = st.one_of(st.integers(1, 5), st.tuples(*3 * [st.integers(1, 3)]))


def test_interpreted() -> None:
    run_interpreted(Path(__file__).with_name("interpreted_maps.py"))


@given(
    st.integers(0, 2**16),
    SIZES,
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
def test_holds_the_rows_of_a_dictionary(
    seed: int,
    size: int | tuple[int, ...],
    stride: int,
    dilation: int,
    fine_stride: int,
    backwards: bool,
) -> None:
    kernel = Kernel(size, dilation, fine_stride, fine_stride * stride)
    fine = random_keys(seed, 40, fine_stride)
    coarse = coarsened(fine, kernel.coarse_stride) if stride > 1 else fine
    keys, queries = (coarse, fine) if backwards else (fine, coarse)
    found = look_up(Wanted(keys, queries, kernel, backwards))
    rows = {tuple(voxel): row for row, voxel in enumerate(unpack(keys).tolist())}
    sign = -1 if backwards else 1
    for offset, of_offset in zip(kernel.offsets, found.inputs.tolist(), strict=True):
        for (batch, *space), row in zip(unpack(queries).tolist(), of_offset, strict=True):
            voxel = (batch, *(a + sign * b for a, b in zip(space, offset, strict=True)))
            assert rows.get(voxel, -1) == row
    check_masks(found)


def check_masks(found: Table) -> None:
    """A bit is set where an output has an input under one of the offsets that share it."""
    offsets, outputs = found.inputs.shape
    sharing = -(-offsets // MASK_BITS)
    there = (found.inputs >= 0).T.tolist()
    expected = [
        sum(1 << bit for bit in {k // sharing for k in range(offsets) if of_output[k]})
        for of_output in there
    ]
    assert found.masks.tolist() == expected
    assert len(found.masks) == outputs


@pytest.mark.parametrize("inputs", [0, 3])
@pytest.mark.parametrize("outputs", [0, 3])
def test_finds_nothing_where_nothing_is(inputs: int, outputs: int) -> None:
    keys = torch.arange(8) * 2**20
    kernel = Kernel(2, 1, 1, 2)
    found = look_up(Wanted(keys[:inputs], keys[4 : 4 + outputs], kernel, False))
    assert found.inputs.tolist() == [[-1] * outputs] * 8
    assert found.masks.tolist() == [0] * outputs


def test_searches_walk_along_the_last_axis() -> None:
    steps = [search.steps for search in searches(Kernel(3, 1, 1, 1), False)]
    assert steps == [-1, 1, 1] * 9
    far = [search.steps for search in searches(Kernel(3, 100, 1, 1), False)]
    assert far == [-1] * 27
    back = [search.steps for search in searches(Kernel(4, 1, 1, 4), True)]
    assert back == [-1, 1, 1, 1] * 16  # coarse voxels are four steps apart
