"""The C++ kernels against PyTorch's operators: every channel count, thread count and kernel."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st

from sparsepipe.engine import backends
from sparsepipe.engine.backends import compiled, convolve, pytorch
from sparsepipe.engine.kernel_map import Kernel, KernelMap
from systems.build import find_compiler
from systems.schema import InputError
from tests.sparsepipe.clouds import assert_close, random_tensor
from tests.sparsepipe.engine.backends.values import random_values

ROOT = Path(__file__).parents[4]
KERNELS = [Kernel(3, 1, 1, 1), Kernel(3, 2, 1, 1), Kernel(2, 1, 1, 2), Kernel(1, 1, 1, 1)]

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")


def test_native_on_a_cpu_is_compiled() -> None:
    assert backends.backend("native") is compiled


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients(kernel: Kernel, transposed: bool) -> None:
    kernel_map = _map(kernel, transposed, voxels=40)
    x, weight = random_values(kernel_map, 2, 3, torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, w: convolve(x, w, kernel_map, "compiled"), (x, weight)
    )


@settings(max_examples=60, deadline=None)
@given(
    inner=st.integers(1, 70),
    outer=st.integers(1, 140),
    kernel=st.sampled_from(KERNELS),
    transposed=st.booleans(),
    voxels=st.integers(0, 300),
    narrow=st.booleans(),
)
def test_any_shape_gives_what_operators_give(
    inner: int, outer: int, kernel: Kernel, transposed: bool, voxels: int, narrow: bool
) -> None:
    kernel_map = _map(kernel, transposed, voxels)
    x, weight = random_values(kernel_map, inner, outer, torch.float32 if narrow else torch.float64)
    for ours, theirs in zip(
        _pass(compiled, x, weight, kernel_map), _pass(pytorch, x, weight, kernel_map), strict=True
    ):
        assert ours.shape == theirs.shape
        if ours.numel():
            assert_close(ours, theirs)


def test_results_do_not_depend_on_threads() -> None:
    kernel_map = _map(KERNELS[0], False, voxels=2000)
    x, weight = random_values(kernel_map, 40, 200, torch.float32)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(_pass(compiled, x, weight, kernel_map))
    torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


def test_values_that_are_not_dense_in_memory() -> None:
    kernel_map = _map(KERNELS[0], False, voxels=100)
    x, weight = random_values(kernel_map, 5, 7, torch.float64)
    strided_x, strided_weight = x.t().contiguous().t(), weight.mT.contiguous().mT
    assert not strided_x.is_contiguous()
    assert not strided_weight.is_contiguous()
    for ours, theirs in zip(
        _pass(compiled, strided_x, strided_weight, kernel_map),
        _pass(compiled, x, weight, kernel_map),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_the_gradients_needed_are_computed(needed: tuple[bool, bool]) -> None:
    kernel_map = _map(KERNELS[0], False, voxels=100)
    x, weight = random_values(kernel_map, 2, 3, torch.float64)
    gradient = torch.ones(len(kernel_map.output_keys), 3, dtype=torch.float64)
    some = compiled.backward(gradient, x, weight, kernel_map, needed)
    assert tuple(one is not None for one in some) == needed


def test_where_the_compiler_fails_operators_convolve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "g++ -fnonsense")
    compiled.kernels.cache_clear()
    with pytest.warns(RuntimeWarning, match="nonsense.*: sparse convolutions run with PyTorch's"):
        assert backends.backend("native") is pytorch
    kernel_map = _map(KERNELS[0], False, voxels=100)
    x, weight = random_values(kernel_map, 2, 3, torch.float64)
    with pytest.raises(InputError, match="backend 'compiled': its kernels could not be built"):
        compiled.forward(x, weight, kernel_map)
    compiled.kernels.cache_clear()


@pytest.mark.distributed
def test_without_a_compiler_operators_convolve_after_one_warning() -> None:
    script = (
        "import warnings; warnings.simplefilter('always')\n"
        "from sparsepipe.engine import backends\n"
        "from sparsepipe.engine.backends import pytorch\n"
        "assert backends.backend('native') is pytorch\n"
        "assert backends.backend('native') is pytorch\n"
    )
    bare = {"PATH": "/nonexistent", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=bare, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no g++ here: sparse convolutions run with PyTorch's operators") == 1


def _map(kernel: Kernel, transposed: bool, voxels: int) -> KernelMap:
    tensor = random_tensor(voxels=voxels)
    tensor.maps.coarsen(1, kernel.coarse_stride)
    return tensor.maps.kernel_map(kernel, transposed=transposed)


def _pass(
    backend: backends.Backend, x: torch.Tensor, weight: torch.Tensor, kernel_map: KernelMap
) -> list[torch.Tensor]:
    """Output and both gradients."""
    x, weight = x.detach(), weight.detach()
    output = backend.forward(x, weight, kernel_map)
    gradients = backend.backward(output.cos(), x, weight, kernel_map, (True, True))
    return [output, *(gradient for gradient in gradients if gradient is not None)]
