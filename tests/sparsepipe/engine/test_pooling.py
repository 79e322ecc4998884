"""Pooling equals a loop over voxels, and PyTorch's on full volumes, with NaN and narrow types."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsepipe.engine.coordinates import kernel_offsets
from sparsepipe.engine.kernel_map import KernelMap
from sparsepipe.engine.layers import (
    AveragePooling,
    GlobalAveragePooling,
    GlobalMaxPooling,
    MaxPooling,
    PoolingTranspose,
    SumPooling,
)
from sparsepipe.engine.pooling import average_pool, max_pool, sum_pool
from sparsepipe.engine.tensor import SparseTensor
from tests.sparsepipe.clouds import assert_close, full_volume, random_tensor

SHAPES = [
    (size, stride, dilation) for size in (1, 2, 3) for stride in (1, 2, 3) for dilation in (1, 2)
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "stride", "dilation"), SHAPES)
def test_pooling_is_that_of_a_loop(
    size: int, stride: int, dilation: int, dtype: torch.dtype
) -> None:
    tensor = random_tensor(3, dtype)
    rows = {tuple(voxel): row for row, voxel in enumerate(tensor.coordinates.tolist())}
    for kind in (MaxPooling, AveragePooling, SumPooling):
        layer = kind(size, stride, dilation)
        output = layer(tensor)
        assert output.tensor_stride == stride
        expected = []
        for b, x, y, z in output.coordinates.tolist():
            places = [(b, x + i, y + j, z + k) for i, j, k in kernel_offsets(size, dilation)]
            found = [rows[place] for place in places if place in rows]
            expected.append(_pooled(tensor.features[found], kind))
        assert_close(output.features, torch.stack(expected))


@pytest.mark.parametrize("pool", [max_pool, average_pool, sum_pool])
@pytest.mark.parametrize(("size", "stride"), [(1, 2), (2, 2), (3, 1), (3, 2)])
def test_gradients(pool: Callable[[Tensor, KernelMap], Tensor], size: int, stride: int) -> None:
    tensor = random_tensor(2, voxels=40)
    kernel_map = MaxPooling(size, stride).downward(tensor).kernel_map
    features = tensor.features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pool(x, kernel_map), features)


NARROW_AND_WIDE = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SPECIAL = (torch.nan, -torch.inf, torch.inf, -1.0, 0.0, 1.0)


@pytest.mark.parametrize("dtype", NARROW_AND_WIDE)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (MaxPooling(2, 2), nn.MaxPool3d(2, 2)),
        (MaxPooling(3, 1), nn.MaxPool3d(3, 1, padding=1)),
        (MaxPooling(3, 2), nn.MaxPool3d(3, 2, padding=1)),
        (MaxPooling(3, 3), nn.MaxPool3d(3, 3, padding=1)),
        (GlobalMaxPooling(), nn.AdaptiveMaxPool3d(1)),
    ],
)
def test_largest_values_and_where_gradients_go_are_those_of_torch(
    ours: nn.Module, theirs: nn.Module, dtype: torch.dtype
) -> None:
    """NaN, infinities and equal values, in channels with many of one and few of another."""
    generator = torch.Generator().manual_seed(4)
    shares = torch.eye(len(SPECIAL)) + 0.02
    chosen = torch.multinomial(shares, 2 * 6**3, replacement=True, generator=generator)
    volume = torch.tensor(SPECIAL)[chosen].view(len(SPECIAL), 2, 6, 6, 6).transpose(0, 1)
    assert volume.isnan().any()
    tensor = full_volume(volume.to(dtype))
    features, dense = tensor.features.requires_grad_(), volume.clone().requires_grad_()
    output, expected = ours(tensor).features, full_volume(theirs(dense)).features
    assert torch.equal(output.float().nan_to_num(7), expected.nan_to_num(7))
    gradient = torch.randint(1, 4, output.shape, generator=generator)
    output.backward(gradient.to(dtype))
    expected.backward(gradient.float())
    assert features.grad is not None
    assert dense.grad is not None
    assert torch.equal(features.grad.float(), full_volume(dense.grad).features)


def test_the_largest_values_are_taken_without_waiting_for_the_device() -> None:
    """Whoever reads a value of a tensor on "meta" fails; on a GPU it would wait."""
    pooled = GlobalMaxPooling()(random_tensor(3).to("meta"))
    assert pooled.features.shape == (4, 3)


def test_nan_is_kept_wherever_it_is_in_a_cloud_with_holes() -> None:
    tensor = random_tensor(1)
    for row in range(0, len(tensor), 7):
        features = torch.zeros_like(tensor.features)
        features[row] = torch.nan
        output = MaxPooling(2, 2)(tensor.replace(features.requires_grad_())).features
        assert int(output.isnan().sum()) == 1  # the windows divide the voxels
        output[output.isnan()].backward()
        assert features.grad is not None
        assert features.grad.nonzero()[:, 0].tolist() == [row]
    pooled = GlobalMaxPooling()(tensor.replace(features)).features  # of samples 1 and 3, no voxels
    assert pooled.isnan().sum() == 1
    assert not pooled[[1, 3]].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_means_and_sums_are_rounded_once(dtype: torch.dtype) -> None:
    """Sums beyond the largest float16 have means that are not; small ones do not vanish in them."""
    cells = torch.cartesian_prod(*[torch.arange(9)] * 3)
    coordinates = F.pad(cells, (1, 0)).int()
    generator = torch.Generator().manual_seed(1)
    features = (torch.rand(len(cells), 2, generator=generator) * 5000 + 3000).to(dtype)
    narrow = SparseTensor(features.clone().requires_grad_(), coordinates)
    exact = SparseTensor(features.double().requires_grad_(), coordinates)
    for layer in (AveragePooling(3, 1), AveragePooling(3, 3), GlobalAveragePooling()):
        output, expected = layer(narrow).features, layer(exact).features
        assert output.dtype == dtype
        _assert_rounded(output, expected)
        gradient = torch.rand(output.shape, generator=generator).to(dtype)
        (ours,) = torch.autograd.grad(output, narrow.features, gradient)
        (theirs,) = torch.autograd.grad(expected, exact.features, gradient.double())
        _assert_rounded(ours, theirs)
    _assert_rounded(
        SumPooling(2, 2)(narrow.replace(narrow.features / 8)).features,
        SumPooling(2, 2)(exact.replace((narrow.features / 8).double())).features,
    )


def test_narrow_gradients_of_many_windows_are_summed_wide() -> None:
    """One voxel wins in 27 windows."""
    volume = torch.zeros(1, 1, 5, 5, 5, dtype=torch.bfloat16)
    volume[0, 0, 2, 2, 2] = 1
    tensor = full_volume(volume)
    features = tensor.features.requires_grad_()
    output = MaxPooling(3, 1)(tensor).features
    gradient = torch.linspace(1, 2, len(output), dtype=torch.float64)[:, None].bfloat16()
    output.backward(gradient)
    won = output.flatten() == 1
    assert int(won.sum()) == 27
    assert features.grad is not None
    assert features.grad.max() == gradient[won].double().sum().bfloat16()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 3), (3, 2), (2, 1)])
def test_transposed_pooling_is_a_transposed_convolution_with_ones(
    size: int, stride: int, dtype: torch.dtype
) -> None:
    volume = torch.randn(2, 3, 6, 6, 6, dtype=dtype)
    fine = full_volume(volume)
    coarse = SumPooling(size, stride)(fine)
    features = torch.randn_like(coarse.features).requires_grad_()
    output = PoolingTranspose(size, stride)(coarse.replace(features))
    assert output.tensor_stride == 1
    assert output.maps is fine.maps
    cells = round((len(features) / 2) ** (1 / 3))
    dense = features.view(2, cells, cells, cells, 3).movedim(-1, 1)
    ones = torch.ones(size, size, size, dtype=dtype).expand(3, 1, -1, -1, -1)
    spread = F.conv_transpose3d(dense, ones, stride=stride, groups=3)
    lead = size // 2 if size % 2 else 0
    inside = slice(lead, lead + 6)
    expected = full_volume(F.pad(spread, [0, 6] * 3)[..., inside, inside, inside])
    assert_close(output.features, expected.features)
    gradient = torch.randn_like(output.features)
    grads = [
        torch.autograd.grad(rows, features, gradient)[0]
        for rows in (output.features, expected.features)
    ]
    assert_close(*grads)


def test_what_was_pooled_is_copied_back_to_its_voxels() -> None:
    tensor = random_tensor(3)
    coarse = AveragePooling(2, 2)(tensor)
    rows = {tuple(voxel): row for row, voxel in enumerate(coarse.coordinates.tolist())}
    places = [(b, x // 2 * 2, y // 2 * 2, z // 2 * 2) for b, x, y, z in tensor.coordinates.tolist()]
    expected = coarse.features[[rows[place] for place in places]]
    assert torch.equal(PoolingTranspose(2, 2)(coarse).features, expected)


def _assert_rounded(narrow: Tensor, exact: Tensor) -> None:
    """The nearest value of the narrow type, or its neighbour where float32 rounded it before."""
    assert narrow.isfinite().all()
    error = (narrow.double() - exact).detach().abs()
    assert bool((error <= torch.finfo(narrow.dtype).eps * 0.51 * exact.detach().abs()).all())


def _pooled(rows: Tensor, kind: type[nn.Module]) -> Tensor:
    if not len(rows) or kind is SumPooling:
        return rows.sum(0)
    return rows.mean(0) if kind is AveragePooling else rows.amax(0)
