"""Batch normalisation by one kernel: interpreted on the CPU, compiled ahead of time for a GPU, and
run on one; and by PyTorch's operators elsewhere."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsepipe.engine.batch_norm import batch_norm
from sparsepipe.engine.layers import BatchNorm, ReLU, norm_relu
from tests.sparsepipe.clouds import random_tensor
from tests.sparsepipe.engine.ahead_of_time import CAPABILITIES, NAMES, refuse_spills
from tests.sparsepipe.engine.interpreted import run_interpreted

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def test_interpreted() -> None:
    run_interpreted(Path(__file__).with_name("interpreted_norms.py"))


@pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET is set")
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", NAMES)
def test_compiles_without_spilling(
    dtype: torch.dtype, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    from tests.sparsepipe.engine.norm_kernels import all_compiled

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for compiled in all_compiled(dtype, capability):
        refuse_spills(compiled, tmp_path)


def test_on_a_cpu_pytorch_computes_it() -> None:
    tensor = random_tensor(3, torch.float32)
    norm, theirs = BatchNorm(3), nn.BatchNorm1d(3)
    found = norm_relu(norm, ReLU(), tensor, tensor).features
    assert torch.equal(found, torch.relu(theirs(tensor.features) + tensor.features))
    for name, value in theirs.state_dict().items():
        assert torch.equal(norm.bn.state_dict()[name], value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-11), (torch.float32, 1e-4), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
)
def test_gpu_gives_what_a_cpu_gives(dtype: torch.dtype, tolerance: float, training: bool) -> None:
    pytest.importorskip("triton")
    torch.manual_seed(0)
    x, shortcut, gradient = (torch.randn(5000, 70).to(dtype) for _ in range(3))
    found = []
    for device, wide in (("cpu", torch.float64), ("cuda", dtype), ("cuda", dtype)):
        norm = nn.BatchNorm1d(70).to(device).train(training)
        norm = norm.double() if wide == torch.float64 else norm
        inputs = [v.to(device, wide).requires_grad_() for v in (x, shortcut)]
        output = batch_norm(inputs[0], norm, inputs[1])
        gradients = torch.autograd.grad(
            output, [*inputs, norm.weight, norm.bias], gradient.to(device, wide)
        )
        found.append([v.detach().cpu() for v in (output, *norm.buffers(), *gradients)])
    for expected, ours, again in zip(*found, strict=True):
        assert torch.equal(ours, again)
        assert float((ours - expected).abs().max()) <= tolerance * float(expected.abs().max())
