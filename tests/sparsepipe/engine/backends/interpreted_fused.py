"""The fused kernels on the CPU: `test_fused.py` runs this file with TRITON_INTERPRET=1, which must
be set before anything imports Triton."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from sparsepipe.engine.backends import convolve, pytorch, triton_kernels as fused, triton_tiles
from sparsepipe.engine.kernel_map import Kernel, KernelMap, build
from systems.schema import InputError
from tests.sparsepipe.clouds import TOLERANCE, assert_close, random_tensor

KERNELS = [Kernel(1, 1, 1, 1), Kernel(2, 1, 1, 1), Kernel(3, 1, 1, 1), Kernel(3, 2, 1, 1)]
KERNELS += [Kernel(1, 1, 1, 2), Kernel(2, 1, 1, 2), Kernel(3, 1, 1, 2), Kernel(2, 3, 2, 4)]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gives_what_pytorch_gives(kernel: Kernel, transposed: bool) -> None:
    kernel_map = _map(kernel, transposed)
    for ours, theirs in _both(kernel_map, 5, 19, torch.float64):
        assert_close(ours, theirs)


@settings(max_examples=12)
@given(
    size=st.integers(1, 2),
    stride=st.integers(1, 2),
    voxels=st.integers(1, 60),
    inner=st.integers(1, 40),
    outer=st.integers(1, 40),
    transposed=st.booleans(),
)
def test_any_shape(
    size: int, stride: int, voxels: int, inner: int, outer: int, transposed: bool
) -> None:
    kernel_map = _map(Kernel(size, 1, 1, stride), transposed, voxels)
    for ours, theirs in _both(kernel_map, inner, outer, torch.float64):
        assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, TOLERANCE[torch.float32]), (torch.float16, 1e-3)]
)
def test_narrow_types_are_as_exact_as_their_values(dtype: torch.dtype, tolerance: float) -> None:
    for ours, theirs in _both(_map(Kernel(2, 1, 1, 1), False), 33, 18, dtype):
        assert ours.dtype == dtype
        assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


@pytest.mark.parametrize("programs", [1, 10000])
def test_many_tiles_and_parts(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_tiles, "TILES", {torch.float64: (16, 16, 16)})
    monkeypatch.setattr(fused, "PROGRAMS", programs)
    for ours, theirs in _both(_map(Kernel(2, 1, 1, 1), False, voxels=30), 35, 40, torch.float64):
        assert_close(ours, theirs)


@pytest.mark.parametrize("inputs", [0, 2])
@pytest.mark.parametrize("outputs", [0, 3])
def test_nothing_to_convolve(inputs: int, outputs: int) -> None:
    keys = torch.arange(8)[:, None] * 2**20
    kernel_map = build(keys[:inputs, 0], keys[4 : 4 + outputs, 0], Kernel(2, 1, 1, 2))
    assert not sum(kernel_map.counts)
    for ours, theirs in _both(kernel_map, 4, 5, torch.float64):
        assert torch.equal(ours, theirs)


def test_inputs_that_are_not_contiguous() -> None:
    kernel_map = _map(Kernel(2, 1, 1, 1), False)
    x, weight = _values(kernel_map, 6, 7, torch.float64)
    wide = torch.stack([x, x], 2)[..., 0]
    turned = weight.transpose(1, 2).contiguous().transpose(1, 2)
    assert not wide.is_contiguous()
    y = fused.forward(x, weight, kernel_map)
    assert torch.equal(fused.forward(wide, turned, kernel_map), y)
    expected = fused.backward(y, x, weight, kernel_map, (True, True))
    results = fused.backward(y, wide, turned, kernel_map, (True, True))
    for ours, theirs in zip(results, expected, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


def test_rows_times_channels_beyond_32_bits() -> None:
    """Only the pages of the last rows of 4 GiB are ever touched."""
    rows = 2**25 + 3
    some = _map(Kernel(1, 1, 1, 1), False, voxels=3)
    far = torch.empty(rows, dtype=torch.int64)
    kernel_map = KernelMap(some.kernel, False, far, some.output_keys)
    near = some.neighbours
    kernel_map.__dict__["_neighbours"] = replace(near, inputs=near.inputs + rows - 3)
    x, weight = _values(some, 64, 8, torch.float16)
    features = torch.empty(rows, 64, dtype=torch.float16)
    features[-3:] = x
    y = fused.forward(features, weight, kernel_map)
    assert torch.equal(y, fused.forward(x, weight, some))
    only_weight = (False, True)
    _, ours = fused.backward(y, features, weight, kernel_map, only_weight)
    _, theirs = fused.backward(y, x, weight, some, only_weight)
    assert ours is not None
    assert theirs is not None
    assert torch.equal(ours, theirs)


def test_only_the_gradients_needed_are_computed() -> None:
    kernel_map = _map(Kernel(2, 1, 1, 1), False)
    x, weight = _values(kernel_map, 2, 3, torch.float64)
    y = fused.forward(x, weight, kernel_map)
    assert fused.backward(y, x, weight, kernel_map, (True, False))[1] is None
    assert fused.backward(y, x, weight, kernel_map, (False, True))[0] is None


def test_refuses_a_type_it_has_not() -> None:
    kernel_map = _map(Kernel(1, 1, 1, 1), False)
    x, weight = _values(kernel_map, 2, 3, torch.complex64)
    with pytest.raises(InputError, match="complex64: backend 'triton' has float16"):
        convolve(x, weight, kernel_map, "triton")


def _map(kernel: Kernel, transposed: bool, voxels: int = 60) -> KernelMap:
    maps = random_tensor(voxels=voxels).maps
    for stride in (kernel.fine_stride, kernel.coarse_stride):
        maps.coarsen(1, stride)
    return maps.kernel_map(kernel, transposed=transposed)


def _values(
    kernel_map: KernelMap, inner: int, outer: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(len(kernel_map.input_keys), inner), (len(kernel_map.counts), inner, outer)]
    x, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    )
    return x, weight


def _both(
    kernel_map: KernelMap, inner: int, outer: int, dtype: torch.dtype
) -> list[tuple[Tensor, Tensor]]:
    """The output and both gradients, of the kernels in `dtype` and of PyTorch in float64."""
    x, weight = (v.requires_grad_() for v in _values(kernel_map, inner, outer, dtype))
    y = convolve(x, weight, kernel_map, "triton")
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours = (y.detach(), *torch.autograd.grad(y, [x, weight], gradient))
    wide_x, wide_weight, wide_gradient = (v.detach().double() for v in (x, weight, gradient))
    theirs = (
        pytorch.forward(wide_x, wide_weight, kernel_map),
        *pytorch.backward(wide_gradient, wide_x, wide_weight, kernel_map, (True, True)),
    )
    return [(a, b) for a, b in zip(ours, theirs, strict=True) if b is not None]
