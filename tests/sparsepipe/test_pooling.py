"""Pooling equals a loop over voxels; its gradients are checked numerically."""

import pytest
import torch
from torch import Tensor

from sparsepipe.coordinates import kernel_offsets
from sparsepipe.layers import AveragePooling, MaxPooling
from sparsepipe.pooling import average_pool, max_pool
from tests.sparsepipe.clouds import assert_close, random_tensor

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
    for layer in (MaxPooling(size, stride, dilation), AveragePooling(size, stride, dilation)):
        output = layer(tensor)
        assert output.tensor_stride == stride
        expected = []
        for b, x, y, z in output.coordinates.tolist():
            places = [(b, x + i, y + j, z + k) for i, j, k in kernel_offsets(size, dilation)]
            found = [rows[place] for place in places if place in rows]
            expected.append(_pooled(tensor.features[found], isinstance(layer, AveragePooling)))
        assert_close(output.features, torch.stack(expected))


@pytest.mark.parametrize("pool", [MaxPooling, AveragePooling])
@pytest.mark.parametrize(("size", "stride"), [(1, 2), (2, 2), (3, 1), (3, 2)])
def test_gradients(pool: type[MaxPooling], size: int, stride: int) -> None:
    tensor = random_tensor(2, voxels=40)
    _, kernel_map = pool(size, stride).downward(tensor)
    function = max_pool if pool is MaxPooling else average_pool
    features = tensor.features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: function(x, kernel_map), features)


def test_gradient_of_equal_values_goes_to_the_first_offset() -> None:
    tensor = random_tensor(1)
    features = torch.zeros_like(tensor.features).requires_grad_()
    _, kernel_map = MaxPooling(2, 2).downward(tensor)
    max_pool(features, kernel_map).sum().backward()
    firsts = kernel_map.inputs_by_output[kernel_map.starts[:-1].long()].long()
    assert features.grad is not None
    assert features.grad.nonzero()[:, 0].tolist() == firsts.sort().values.tolist()


def test_negative_values_and_nan_are_not_hidden() -> None:
    tensor = random_tensor(1)
    pooled = MaxPooling(1, 1)(tensor.replace(-tensor.features.abs()))
    assert torch.equal(pooled.features, -tensor.features.abs())
    features = tensor.features.clone()
    features[0] = torch.nan
    assert MaxPooling(3, 1)(tensor.replace(features)).features.isnan().any()


def _pooled(rows: Tensor, average: bool) -> Tensor:
    if not len(rows):
        return rows.sum(0)
    return rows.mean(0) if average else rows.amax(0)
