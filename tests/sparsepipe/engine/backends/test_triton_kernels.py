"""The fused kernels: interpreted on the CPU, compiled ahead of time for a GPU, and run on one."""

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsepipe.engine import backends, triton_here
from sparsepipe.engine.backends import compiled, convolve, pytorch
from sparsepipe.engine.coordinates import PACKINGS
from sparsepipe.engine.kernel_map import Kernel, KernelMap
from sparsepipe.engine.lookup import MASK_BITS
from sparsepipe.engine.tensor import SparseTensor
from systems.schema import InputError
from tests.sparsepipe.clouds import random_tensor
from tests.sparsepipe.engine.ahead_of_time import CAPABILITIES, NAMES, compiled_for, refuse_spills
from tests.sparsepipe.engine.interpreted import run_interpreted

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
KERNELS = [Kernel(3, 1, 1, 1), Kernel(3, 2, 1, 1), Kernel(2, 1, 1, 2), Kernel(1, 1, 1, 1)]
SHARED_BYTES = 163 * 2**10
"""That a block can have on an A100, the least of the three."""
BOTH = (True, True)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_interpreted() -> None:
    run_interpreted(Path(__file__).with_name("interpreted_fused.py"))


@pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET is set")
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_kernels_of_maps_compile(capability: int, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    from sparsepipe.engine import triton_maps

    constants = triton_maps._constants() | {"MASK_BITS": MASK_BITS}
    options = {name: constants.pop(name) for name in ("num_warps", "maxnreg")}
    for kernel, masks in [
        (triton_maps.look_up_kernel, "*i32"),
        (triton_maps.look_up_kernel, "*i64"),
        (triton_maps.arrange_kernel, "*i64"),
    ]:
        pointers = dict.fromkeys(["jobs", "order", "outputs"], "*i64") | {"masks": masks}
        pointers |= dict.fromkeys(["table", "inputs"], "*i32")
        known = {name: constants[name] for name in kernel.arg_names if name in constants}
        refuse_spills(compiled_for(kernel, pointers, known, capability, options), tmp_path)


@pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET is set")
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_kernel_of_keys_compiles(capability: int, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    from sparsepipe.engine import triton_keys

    options = {"num_warps": triton_keys.WARPS}
    for dimension, form in PACKINGS.items():
        constants = {"FIELDS": 1 + dimension, "BITS": form.bits, "ROWS": triton_keys.ROWS}
        for coordinates in ("*i32", "*i64"):
            pointers = dict.fromkeys(["keys", "rows", "found"], "*i64")
            pointers |= {"coordinates": coordinates}
            compiled = compiled_for(
                triton_keys.pack_kernel, pointers, constants, capability, options
            )
            refuse_spills(compiled, tmp_path)


@pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET is set")
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("channels", [3, 128])
@pytest.mark.parametrize(
    ("dtype", "precision", "instruction"),
    [
        (torch.float16, "ieee", r"f32\.f16\.f16"),
        (torch.bfloat16, "ieee", r"f32\.bf16\.bf16"),
        (torch.float32, "ieee", r"fma\.rn\.f32"),
        (torch.float32, "tf32", r"tf32\.tf32"),
        (torch.float32, "tf32x3", r"tf32\.tf32"),
        (torch.float64, "ieee", r"mma\.sync\..*\.f64"),  # of a shape that Triton chooses
    ],
)
def test_compiles(
    dtype: torch.dtype,
    precision: str,
    instruction: str,
    channels: int,
    capability: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the intended instructions, without spilled registers, in the shared memory there is."""
    pytest.importorskip("triton")
    from sparsepipe.engine.backends import triton_kernels as fused, triton_tiles

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton_tiles, "_precision", lambda: precision)
    forward = triton_tiles.convolution_tile(dtype, channels, channels)
    backward = triton_tiles.weight_gradient_tile(dtype, channels, channels)
    for kernel, tile in [
        (fused.convolution_kernel, forward | {"partial": None, "total": None}),
        (fused.convolution_kernel, forward),
        (fused.weight_gradient_kernel, backward),
    ]:
        compiled = _compiled_product(kernel, tile, dtype, capability, channels % 16 == 0)
        if capability == 90:
            assert re.search(instruction, compiled.asm["ptx"])
        assert compiled.metadata.shared <= SHARED_BYTES
        refuse_spills(compiled, tmp_path)


@pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET is set")
def test_refuses_a_cpu() -> None:
    pytest.importorskip("triton")
    kernel_map = _map(Kernel(1, 1, 1, 1), "cpu")
    x, weight = _values(kernel_map, torch.float32)
    with pytest.raises(InputError, match=r"'triton' on cpu: it runs on CUDA .* take 'native'"):
        convolve(x, weight, kernel_map, "triton")


@pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET is set")
def test_rounds_to_tf32_only_if_pytorch_does() -> None:
    pytest.importorskip("triton")
    from sparsepipe.engine.backends import triton_tiles

    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("PyTorch before 2.9 knows TF32 or not, see below")
    before = matmul.fp32_precision
    try:
        for said, expected in [("none", "tf32x3"), ("ieee", "ieee"), ("tf32", "tf32")]:
            matmul.fp32_precision = said
            assert triton_tiles._precision() == expected
    finally:
        matmul.fp32_precision = before


def test_rounds_to_tf32_only_by_the_flag_of_older_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from sparsepipe.engine.backends import triton_tiles

    for allowed, expected in [(False, "tf32x3"), (True, "tf32")]:
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=allowed))
        assert triton_tiles._precision() == expected


def test_native_takes_the_kernels_where_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(backends, "triton_serves", lambda device: True)
    fused = backends.backend("triton")
    assert backends.backend("native", "cuda") is fused
    assert backends.backend("native", "cpu") in (compiled, pytorch)
    assert backends.backend("pytorch", "cuda") is pytorch


def test_native_goes_on_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    triton_here._runs.cache_clear()
    with pytest.warns(UserWarning, match="PyTorch's operators, without Triton's kernels: .*triton"):
        assert backends.backend("native", "cuda") is pytorch
    assert backends.backend("native", "cuda") is pytorch  # warned once
    triton_here._runs.cache_clear()
    monkeypatch.delitem(sys.modules, "sparsepipe.engine.backends.triton_kernels", raising=False)
    with pytest.raises(InputError, match=r"backend 'triton': .*; pip install triton"):
        backends.backend("triton")


@gpu
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
)
def test_gpu_gives_what_pytorch_gives(kernel: Kernel, dtype: torch.dtype, tolerance: float) -> None:
    pytest.importorskip("triton")
    here, there = (_map(kernel, device) for device in ("cpu", "cuda"))
    x, weight = _values(here, dtype)
    y = convolve(x.double(), weight.double(), here)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    theirs = [y, *pytorch.backward(gradient.double(), x.double(), weight.double(), here, BOTH)]
    moved = x.cuda(), weight.cuda(), there
    fused = backends.backend("triton")
    runs = [
        [fused.forward(*moved), *fused.backward(gradient.cuda(), *moved, BOTH)] for _ in range(2)
    ]
    for ours, again, wide in zip(*runs, theirs, strict=True):
        assert ours is not None
        assert again is not None
        assert wide is not None
        assert torch.equal(ours, again)
        error = float((ours.cpu() - wide).abs().max())
        assert error <= tolerance * float(wide.abs().max())


def _map(kernel: Kernel, device: str) -> KernelMap:
    tensor = random_tensor(voxels=500)
    maps = SparseTensor(tensor.features.to(device), tensor.coordinates.to(device)).maps
    maps.coarsen(1, kernel.coarse_stride)
    return maps.kernel_map(kernel)


def _values(kernel_map: KernelMap, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(len(kernel_map.input_keys), 70), (len(kernel_map.counts), 70, 150)]
    x, weight = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return x, weight


def _compiled_product(
    kernel: Any, tile: dict[str, Any], dtype: torch.dtype, capability: int, aligned: bool
) -> Any:
    """A kernel of convolutions, as a launch with contiguous tensors specializes it."""
    constants = {name: tile[name] for name in kernel.arg_names if name in tile}
    constants |= {name: 1 for name in kernel.arg_names if name == "weight_outer_stride"}
    values = f"*{NAMES[dtype]}"
    pointers = dict.fromkeys(["features", "weight", "output", "gradient", "total"], values)
    pointers |= {"neighbours": "*i32", "order": "*i64"}
    pointers |= {"partial": "*fp64" if dtype == torch.float64 else "*fp32"}
    channels = ("inner", "outer", "weight_offset_stride", "weight_inner_stride")
    options = {name: tile[name] for name in ("enable_fp_fusion", "maxnreg")}
    divisible = channels if aligned else ()
    return compiled_for(kernel, pointers, constants, capability, options, divisible)
