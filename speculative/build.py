"""Build the kernels of `csrc` with g++ or nvcc on first use, and load them with ctypes.

Libraries are kept in a cache, one per source, flags, compiler and processor: the folder that
TESTBED_CACHE names, else `systems-testbed` in the user's cache folder. They need no header and no
library of torch, and nvcc needs no GPU.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "csrc"
CPU_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math"),  # else comparisons are not vectorised
)
CUDA_FLAGS = (
    *("-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC", "-cudart", "static"),
    *("--expt-relaxed-constexpr", "-lineinfo"),
)


class BuildError(RuntimeError):
    """A compiler refused the kernels; the text holds its command and message."""


@functools.cache
def cpu_library() -> ctypes.CDLL | None:
    """The CPU kernels; None, with a warning, where there is no g++."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        _warn_missing("g++")
        return None
    return ctypes.CDLL(str(build("verify.cpp", [*shlex.split(compiler), *CPU_FLAGS])))


@functools.cache
def cuda_library(architecture: int) -> ctypes.CDLL | None:
    """The CUDA kernels for one architecture, 90 for sm_90; None, with a warning, without nvcc."""
    compiler = find_nvcc()
    if compiler is None:
        _warn_missing("nvcc")
        return None
    library = ctypes.CDLL(str(build("verify.cu", [compiler, *CUDA_FLAGS, *target(architecture)])))
    library.speculative_workspace_bytes.restype = ctypes.c_int64
    library.speculative_error.restype = ctypes.c_char_p
    return library


def target(architecture: int) -> list[str]:
    """nvcc's flags for one architecture."""
    return [f"-gencode=arch=compute_{architecture},code=sm_{architecture}"]


def find_nvcc() -> str | None:
    """nvcc on the path, or the one of CUDA_HOME."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")


def build(source: str, command: Sequence[str]) -> Path:
    """Compile `csrc/source` unless the cache has it. Processes that build at once do not meet.

    Raises:
        BuildError: with the compiler's message.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{Path(source).stem}-{_key(command)}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "made.so"
        words = [*command, "-o", str(made), str(SOURCES / source)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode != 0:
            raise BuildError(f"{shlex.join(words)} failed:\n{done.stderr}{done.stdout}")
        made.replace(path)
    return path


def cache_folder() -> Path:
    """Where built kernels are kept."""
    if "TESTBED_CACHE" in os.environ:
        return Path(os.environ["TESTBED_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "systems-testbed"


def _key(command: Sequence[str]) -> str:
    digest = hashlib.sha256(repr(list(command)).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    version = subprocess.run([command[0], "--version"], capture_output=True)
    digest.update(version.stdout)
    if "-march=native" in command:  # a cache may be shared by machines with other instructions
        digest.update(_processor().encode())
    return digest.hexdigest()[:16]


def _processor() -> str:
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    )
    named = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join([platform.machine(), *sorted(set(named))])


def _warn_missing(compiler: str) -> None:
    warnings.warn(
        f"no {compiler} here: speculative sampling is verified by PyTorch operators, slower",
        RuntimeWarning,
        stacklevel=3,
    )


def architecture_of(device: torch.device) -> int:
    """90 for sm_90."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
