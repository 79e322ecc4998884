"""PyTorch's operators: gradients, narrow types, blocks; and what the interface refuses."""

import pytest
import torch

from sparsepipe.engine import backends
from sparsepipe.engine.backends import convolve, pytorch
from sparsepipe.engine.kernel_map import Kernel, KernelMap
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError
from tests.sparsepipe.clouds import assert_close, random_tensor
from tests.sparsepipe.engine.backends.values import random_values

KERNELS = [Kernel(3, 1, 1, 1), Kernel(3, 2, 1, 1), Kernel(2, 1, 1, 1), Kernel(3, 1, 1, 2)]
KERNELS += [Kernel(2, 1, 1, 2), Kernel(1, 1, 1, 3)]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients(kernel: Kernel, transposed: bool) -> None:
    kernel_map = _map(random_tensor(voxels=40), kernel, transposed)
    x, weight = random_values(kernel_map, 2, 3, torch.float64)
    assert torch.autograd.gradcheck(lambda x, w: convolve(x, w, kernel_map, "pytorch"), (x, weight))


@pytest.mark.parametrize("kernel", KERNELS)
def test_any_block_size_gives_the_same(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_map = _map(random_tensor(voxels=500), kernel, False)
    x, weight = random_values(kernel_map, 4, 5, torch.float64)
    results = []
    for least, buffer_bytes in [(0, 1), (0, 5000), (0, 20000), (2, 2**23)]:
        monkeypatch.setattr(pytorch, "PAIRS_PER_CHANNEL", least)
        monkeypatch.setattr(pytorch, "BUFFER_BYTES", buffer_bytes)
        output = convolve(x, weight, kernel_map, "pytorch")
        results.append((output, *torch.autograd.grad(output.square().sum(), [x, weight])))
    assert len(pytorch._blocks(kernel_map, x, 9)) == 1
    assert len(kernel_map._blocks) > 2
    for other in results[1:]:
        for ours, first in zip(other, results[0], strict=True):
            assert_close(ours, first)


def test_bfloat16_is_as_exact_as_its_values() -> None:
    kernel_map = _map(random_tensor(voxels=800), Kernel(3, 1, 1, 1), False)
    x, weight = random_values(kernel_map, 16, 16, torch.bfloat16)
    wide_x, wide_weight = (value.detach().double().requires_grad_() for value in (x, weight))
    narrow_output = convolve(x, weight, kernel_map)
    output = convolve(wide_x, wide_weight, kernel_map)
    gradient = torch.randn(output.shape, dtype=torch.float64).bfloat16()
    ours = torch.autograd.grad(narrow_output, [x, weight], gradient)
    theirs = torch.autograd.grad(output, [wide_x, wide_weight], gradient.double())
    for a, b in zip((narrow_output, *ours), (output, *theirs), strict=True):
        assert a.dtype == torch.bfloat16
        assert float((a - b).detach().abs().max()) <= 2e-2 * float(b.detach().abs().max())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["pytorch", "native"])
def test_narrow_types_are_rounded_once(name: str, dtype: torch.dtype) -> None:
    """Outputs, and the gradients of features and weight, are the nearest values to the exact."""
    kernel_map = _map(random_tensor(voxels=500), Kernel(3, 1, 1, 1), False)
    x, weight = random_values(kernel_map, 16, 16, dtype)
    wide_x, wide_weight = (value.detach().double().requires_grad_() for value in (x, weight))
    output = convolve(x, weight, kernel_map, name)
    expected = convolve(wide_x, wide_weight, kernel_map, name)
    gradient = torch.randn_like(output)
    ours = torch.autograd.grad(output, [x, weight], gradient)
    theirs = torch.autograd.grad(expected, [wide_x, wide_weight], gradient.double())
    for a, b in zip((output, *ours), (expected, *theirs), strict=True):
        assert a.dtype == dtype
        error = (a.double() - b).detach().abs()
        scale = b.detach().abs()
        assert bool((error <= torch.finfo(dtype).eps * 0.51 * scale + 1e-5 * scale.max()).all())


@pytest.mark.parametrize("name", ["pytorch", "native"])
def test_parts_of_a_sum_may_be_larger_than_the_largest_float16(name: str) -> None:
    kernel_map = _map(random_tensor(voxels=500), Kernel(3, 1, 1, 1), False)
    x = torch.full((500, 1), 300.0, dtype=torch.float16)
    weight = torch.zeros(27, 1, 1, dtype=torch.float16)
    weight[13], weight[12], weight[14] = 200, 250, -250  # itself and its neighbours along x
    expected = convolve(x.double(), weight.double(), kernel_map, name)
    fits = expected.abs() <= torch.finfo(torch.float16).max
    assert fits.any()
    assert torch.equal(
        convolve(x, weight, kernel_map, name)[fits].double(), expected.half()[fits].double()
    )
    gradient = torch.full((500, 1), 300.0, dtype=torch.float16)
    x[::2] *= -1
    (of_weight,) = torch.autograd.grad(
        convolve(x, weight.requires_grad_(), kernel_map, name), weight, gradient
    )
    assert of_weight[13].item() == 0  # 250 times 90,000 and 250 times its negative


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_the_gradients_needed_are_computed(needed: tuple[bool, bool]) -> None:
    kernel_map = _map(random_tensor(), Kernel(3, 1, 1, 1), False)
    x, weight = random_values(kernel_map, 2, 3, torch.float64)
    gradient = torch.ones(len(kernel_map.output_keys), 3, dtype=torch.float64)
    both = pytorch.backward(gradient, x.detach(), weight.detach(), kernel_map, (True, True))
    some = pytorch.backward(gradient, x.detach(), weight.detach(), kernel_map, needed)
    for need, one, full in zip(needed, some, both, strict=True):
        assert (one is not None) == need
        assert one is None or (full is not None and torch.equal(one, full))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kernel", KERNELS)
def test_cuda_gives_what_the_cpu_gives(kernel: Kernel) -> None:
    tensor = random_tensor(4, voxels=500)
    kernel_map = _map(tensor, kernel, False)
    x, weight = random_values(kernel_map, 4, 5, torch.float64)
    there = SparseTensor(tensor.features.cuda(), tensor.coordinates.cuda(), batch_size=4)
    x_there, weight_there = (value.detach().cuda().requires_grad_() for value in (x, weight))
    outputs = (
        convolve(x, weight, kernel_map),
        convolve(x_there, weight_there, _map(there, kernel, False), "pytorch"),
    )
    ours, theirs = (
        (y, *torch.autograd.grad(y.square().sum(), of))
        for y, of in zip(outputs, ([x, weight], [x_there, weight_there]), strict=True)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert_close(b.cpu(), a)


def test_interface_refuses_what_does_not_fit() -> None:
    kernel_map = _map(random_tensor(), Kernel(3, 1, 1, 1), False)
    x, weight = random_values(kernel_map, 2, 3, torch.float32)
    with pytest.raises(InputError, match=r"give \[120, Cin\] and \[27, Cin, Cout\]"):
        convolve(x[:-1], weight, kernel_map)
    with pytest.raises(InputError, match=r"give \[120, Cin\] and \[27, Cin, Cout\]"):
        convolve(x, weight[:-1], kernel_map)
    with pytest.raises(InputError, match=r"features are torch.float32, weight is torch.float64"):
        convolve(x, weight.double(), kernel_map)
    with pytest.raises(InputError, match="perhaps 'native'"):
        backends.backend("nativ")


def _map(tensor: SparseTensor, kernel: Kernel, transposed: bool) -> KernelMap:
    tensor.maps.coarsen(1, kernel.coarse_stride)
    return tensor.maps.kernel_map(kernel, transposed=transposed)
