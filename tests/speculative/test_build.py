"""Kernels are built once, found again, and fail loudly; a machine without a compiler is told."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speculative import build
from speculative.experiments import compiled
from speculative.verify import verify

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A small source instead of the kernels, and an empty cache."""
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "tiny.cpp").write_text('extern "C" int answer() { return 42; }\n')
    monkeypatch.setattr(build, "SOURCES", folder)
    monkeypatch.setenv("TESTBED_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_built_library_is_found_again_and_leaves_nothing_else(sources: Path) -> None:
    command = ["g++", *build.CPU_FLAGS]
    first = build.build("tiny.cpp", command)
    before = first.stat().st_mtime_ns
    assert build.build("tiny.cpp", command) == first
    assert first.stat().st_mtime_ns == before
    assert list(build.cache_folder().iterdir()) == [first]
    assert ctypes.CDLL(str(first)).answer() == 42


def test_other_flags_and_other_sources_are_other_libraries(sources: Path) -> None:
    found = {build.build("tiny.cpp", ["g++", *build.CPU_FLAGS, flag]) for flag in ("-O1", "-O0")}
    (sources / "header.h").write_text("// new\n")
    found.add(build.build("tiny.cpp", ["g++", *build.CPU_FLAGS, "-O0"]))
    assert len(found) == 3


def test_a_build_that_fails_is_an_error_with_the_message(sources: Path) -> None:
    with pytest.raises(build.BuildError, match=r"g\+\+ .*-fnonsense(.|\n)*unrecognized"):
        build.build("tiny.cpp", ["g++", *build.CPU_FLAGS, "-fnonsense"])
    assert list(build.cache_folder().iterdir()) == []


def test_a_build_that_was_given_up_is_started_again(sources: Path) -> None:
    """What a killed process left half written is never loaded."""
    scratch = build.cache_folder() / "tmp-left-behind"
    scratch.mkdir(parents=True)
    (scratch / "made.so").write_bytes(b"half")
    path = build.build("tiny.cpp", ["g++", *build.CPU_FLAGS])
    assert ctypes.CDLL(str(path)).answer() == 42


@pytest.mark.distributed
def test_processes_that_build_at_once_do_not_meet(sources: Path) -> None:
    script = (
        "import ctypes, pathlib; from speculative import build;"
        f"build.SOURCES = pathlib.Path({str(sources)!r});"
        "path = build.build('tiny.cpp', ['g++', *build.CPU_FLAGS]);"
        "print(path, ctypes.CDLL(str(path)).answer())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(3)
    ]
    outputs = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    assert len(list(build.cache_folder().iterdir())) == 1


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
@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_the_cuda_kernels_compile_without_spills(architecture: int) -> None:
    found = compiled.kernels(build.find_nvcc() or "", architecture)
    assert len(found) == 15  # of three dtypes: reduce_all, finish of 2 methods, walk of 2
    assert sum(kernel["spilled_bytes"] for kernel in found) == 0
