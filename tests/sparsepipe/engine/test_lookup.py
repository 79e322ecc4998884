"""The table finds what the search finds."""

import torch
from hypothesis import given, strategies as st

from sparsepipe.engine.coordinates import coarsened, kernel_offsets, pack
from sparsepipe.engine.kernel_map import Kernel, search
from sparsepipe.engine.lookup import CELLS_PER_VOXEL, look_up


@given(
    st.integers(0, 2**16),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_the_table_finds_what_the_search_finds(
    seed: int, size: int, stride: int, dilation: int, fine_stride: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(-4, 5, (150, 4), generator=generator, dtype=torch.int32)
    cells[:, 0].remainder_(2)
    cells[:, 1:] *= fine_stride
    fine = torch.unique(pack(cells))
    kernel = Kernel(size, dilation, fine_stride, fine_stride * stride)
    coarse = coarsened(fine, kernel.coarse_stride) if stride > 1 else fine
    offsets = kernel_offsets(size, kernel.spacing)
    found = look_up(fine, coarse, offsets, fine_stride, size * kernel.spacing)
    if found is None:
        return  # a box so large, around so few
    expected = search(fine, coarse, kernel, set(offsets))
    assert found.keys() == expected.keys()
    for offset, pairs in found.items():
        for ours, theirs in zip(pairs, expected[offset], strict=True):
            assert ours.dtype == theirs.dtype == torch.int32
            assert torch.equal(ours, theirs)


def test_empty_boxes_are_not_tabulated() -> None:
    far = pack(torch.tensor([[0, -9000, 0, 0], [0, 9000, 9000, 9000]], dtype=torch.int32))
    near = pack(torch.tensor([[0, 0, 0, 0], [0, 1, 0, 1]], dtype=torch.int32))
    offsets = kernel_offsets(1)
    assert look_up(far, far, offsets, 1, 1) is None
    assert look_up(near, near, offsets, 1, 1) is not None
    assert look_up(far[:0], far[:0], offsets, 1, 1) is None
    assert CELLS_PER_VOXEL < 18000
