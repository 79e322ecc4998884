"""The kernels compile for GPUs; a machine without a compiler is told."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speculative import build
from speculative.verify import verify

ROOT = Path(__file__).parents[2]


@pytest.mark.distributed
def test_without_a_compiler_there_is_one_warning_and_the_same_decision() -> None:
    script = (
        "import warnings, torch; warnings.simplefilter('always');"
        "from speculative.verify import verify;"
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
def test_the_cuda_kernels_compile_without_spills(tmp_path: Path) -> None:
    targets = [flag for architecture in (80, 90, 100) for flag in build.target(architecture)]
    flags = [*build.CUDA_FLAGS, *targets, "-Xptxas", "-v", "-o", str(tmp_path / "made.so")]
    command = [build.find_nvcc() or "", "--threads", "2", *flags]
    source = str(build.SOURCES / "verify.cu")
    done = subprocess.run([*command, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    spills = [line for line in done.stderr.splitlines() if "spill stores" in line]
    assert len(spills) == 3 * 15  # of three dtypes: reduce_all, finish of 2 methods, walk of 2
    assert all("0 bytes spill stores, 0 bytes spill loads" in line for line in spills)
