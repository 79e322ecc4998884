"""The kernels compile for GPUs; a machine without a compiler is told."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speculative.experiments import compiled
from speculative.verification import build
from speculative.verification.verify import verify

ROOT = Path(__file__).parents[3]


@pytest.mark.distributed
def test_without_a_compiler_there_is_one_warning_and_the_same_decision() -> None:
    script = (
        "import warnings, torch; warnings.simplefilter('always');"
        "from speculative.verification.verify import verify;"
        "z = torch.arange(24.0).view(1, 3, 8); x = torch.tensor([[7, 7]]);"
        "verify(z, z[:, :2], x);"
        "print(torch.stack(verify(z, z[:, :2], x, seed=3)).tolist())"
    )
    bare = {"PATH": "/nonexistent", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=bare, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    z, x = torch.arange(24.0).view(1, 3, 8), torch.tensor([[7, 7]])
    assert done.stdout.strip() == str(torch.stack(verify(z, z[:, :2], x, seed=3)).tolist())
    assert done.stderr.count("no g++ here") == 1


@pytest.mark.skipif(build.find_nvcc() is None, reason="no nvcc")
@pytest.mark.parametrize(
    "architecture",
    [pytest.param(80, marks=pytest.mark.slow), 90, pytest.param(100, marks=pytest.mark.slow)],
)
def test_the_cuda_kernels_compile_without_spills(architecture: int) -> None:
    found = compiled.kernels(build.find_nvcc() or "", architecture)
    assert len(found) == 15  # of three dtypes: reduce_all, finish of 2 methods, walk of 2
    assert sum(kernel["spilled_bytes"] for kernel in found) == 0
