"""The real MinkowskiEngine, where it is installed: its backend against the native one."""

import pytest
import torch

from sparsepipe.engine.backends import backend
from sparsepipe.engine.kernel_map import Kernel
from sparsepipe.engine.layers import Convolution
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models import MinkUNet
from systems.schema import InputError
from tests.sparsepipe.clouds import assert_close, random_tensor, real_tensor

try:
    minkowski = backend("minkowski")
except InputError as missing:
    pytest.skip(str(missing), allow_module_level=True)

CASES = [
    *[(size, 1, dilation, False) for size in (1, 2, 3, 5) for dilation in (1, 2)],
    *[(size, stride, 1, False) for size in (1, 2, 3) for stride in (2, 3)],
    *[(2, 2, 1, True), (3, 2, 1, True), (3, 3, 1, True), (3, 1, 2, True)],
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("real", [False, True])
def test_both_backends_agree(real: bool, dtype: torch.dtype) -> None:
    native = backend("native")
    tensor = real_tensor(3, dtype) if real else random_tensor(3, dtype)
    for size, stride, dilation, transposed in CASES:
        tensor.maps.coarsen(1, stride)
        kernel_map = tensor.maps.kernel_map(
            Kernel(size, dilation, 1, stride), transposed=transposed
        )
        torch.manual_seed(size)
        features = torch.randn(len(kernel_map.input_keys), 3, dtype=dtype)
        weight = torch.randn(size**3, 3, 4, dtype=dtype)
        ours = native.forward(features, weight, kernel_map)
        assert_close(minkowski.forward(features, weight, kernel_map), ours)
        gradient = torch.randn_like(ours)
        args = (gradient, features, weight, kernel_map, (True, True))
        for theirs, mine in zip(minkowski.backward(*args), native.backward(*args), strict=True):
            assert theirs is not None
            assert mine is not None
            assert_close(theirs, mine)


def test_a_network_runs_on_it() -> None:
    tensor = random_tensor(3, torch.float64)
    torch.manual_seed(0)
    network = MinkUNet(3, 5, depth=14, width=0.125).double().eval()
    expected = network(tensor).features
    for layer in network.modules():
        if isinstance(layer, Convolution):
            layer.backend = "minkowski"
    fresh = SparseTensor(tensor.features, tensor.coordinates, batch_size=tensor.batch_size)
    assert_close(network(fresh).features, expected)


def test_no_voxels() -> None:
    empty = SparseTensor(torch.zeros(0, 3), torch.zeros(0, 4, dtype=torch.int32), batch_size=2)
    assert Convolution(3, 4, backend="minkowski")(empty).features.shape == (0, 4)
