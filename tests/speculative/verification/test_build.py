"""The kernels compile for GPUs; a machine without a compiler is told."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
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
@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.slow
def test_the_cuda_kernels_compile_without_spills(architecture: int) -> None:
    found = compiled.kernels(build.find_nvcc() or "", architecture)
    # Of three dtypes: cut_rows, reduce_all, match, score, finish of 2 methods, walk of 3.
    assert len(found) == 27
    assert sum(kernel["spilled_bytes"] for kernel in found) == 0


def fake_nvcc(folder: Path, lists: str, says: str = "") -> Path:
    """An nvcc that knows some architectures and refuses every source."""
    folder.mkdir(parents=True)
    path = folder / "nvcc"
    path.write_text(
        f'#!/bin/sh\n[ "$1" = --list-gpu-code ] && echo "{lists}" && exit\n{says}\nexit 1\n'
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder below which alone nvcc is looked for; `nvidia` there is pip's."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin:/usr/bin")
    monkeypatch.setenv("CUDA_HOME", f"{tmp_path}/cuda")
    monkeypatch.setenv("TESTBED_CACHE", f"{tmp_path}/cache")
    (tmp_path / "nvidia").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    build.cuda_library.cache_clear()
    yield tmp_path
    build.cuda_library.cache_clear()


def test_the_first_nvcc_that_knows_the_gpu_is_taken(only: Path) -> None:
    old = fake_nvcc(only / "bin", "sm_75 sm_80")
    of_pip = fake_nvcc(only / "nvidia" / "cu13" / "bin", "sm_80 sm_90")
    assert build.find_nvccs() == [str(old), str(of_pip)]
    assert build.find_nvcc() == str(old)
    assert [build.knows(str(one), 90) for one in (old, of_pip)] == [False, True]
    with pytest.warns(RuntimeWarning, match=f"{of_pip} cannot build verify.cu"):
        assert build.cuda_library(90) is None


def test_an_nvcc_that_is_missing_or_too_old_or_refuses_warns_once(
    only: Path, recwarn: pytest.WarningsRecorder
) -> None:
    reasons = []
    for lists, says in ((None, ""), ("sm_75", ""), ("sm_90", "echo error: unsupported gcc >&2")):
        if lists is not None:
            shutil.rmtree(only / "bin", ignore_errors=True)
            fake_nvcc(only / "bin", lists, says)
        build.cuda_library.cache_clear()
        assert [build.cuda_library(90) for _ in range(2)] == [None, None]
        (warned,) = [str(one.message) for one in recwarn.list]
        recwarn.clear()
        reasons.append(warned.removeprefix(str(only)))
        assert warned.endswith(build.INSTEAD)
    missing, old, refused = reasons
    assert missing.startswith("no nvcc here")
    assert old.startswith("/bin/nvcc cannot compile for sm_90")
    assert "error: unsupported gcc" in refused
