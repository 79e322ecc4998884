"""Builds the kernels of `csrc` with g++ or nvcc when they are first used (`systems.build`)."""

import ctypes
import functools
import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch

from systems.build import library, loaded, warn

SOURCES = Path(__file__).parent / "csrc"
INSTEAD = "speculative sampling is verified by PyTorch operators, slower"
"""The end of the warnings where kernels cannot be built."""
CPU_FLAGS = ("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()
"""The widest vectors that the processor has: compilers prefer half of AVX-512, which takes a
reduction 1.7 times as long."""
CUDA_FLAGS = (
    "-std=c++17",
    "-O3",
    "-shared",
    "-Xcompiler",
    "-fPIC",
    "-cudart",
    "static",
    "--expt-relaxed-constexpr",
    "-lineinfo",
)


@functools.cache
def cpu_library() -> ctypes.CDLL | None:
    """The CPU kernels; None, with a warning, where they cannot be built or loaded."""
    return library(SOURCES / "verify.cpp", INSTEAD, CPU_FLAGS)


@functools.cache
def cuda_library(architecture: int) -> ctypes.CDLL | None:
    """The CUDA kernels for one architecture, 90 for sm_90; None, with a warning, where they cannot
    be built or loaded."""
    compilers = find_nvccs()
    compiler = next((one for one in compilers if knows(one, architecture)), None)
    if compiler is None:
        known = f"{', '.join(compilers)} cannot compile for sm_{architecture}"
        warn(known if compilers else "no nvcc here", INSTEAD)
        return None
    command = [compiler, *CUDA_FLAGS, *target(architecture)]
    kernels = loaded(SOURCES / "verify.cu", command, INSTEAD)
    if kernels is None:
        return None
    kernels.speculative_workspace_bytes.restype = ctypes.c_int64
    kernels.speculative_error.restype = ctypes.c_char_p
    return kernels


def target(architecture: int) -> list[str]:
    """The flags that make nvcc compile for one architecture, such as 90 for sm_90."""
    return [f"-gencode=arch=compute_{architecture},code=sm_{architecture}"]


def find_nvccs() -> list[str]:
    """The paths of all nvcc: on PATH, below CUDA_HOME, and of packages that pip has installed."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    packages = importlib.util.find_spec("nvidia")
    roots = map(Path, packages.submodule_search_locations or () if packages else ())
    folders = [f"{home}/bin", *(folder for root in roots for folder in sorted(root.glob("*/bin")))]
    found = [shutil.which("nvcc"), *(shutil.which("nvcc", path=str(folder)) for folder in folders)]
    return list(dict.fromkeys(path for path in found if path))


def find_nvcc() -> str | None:
    """The path of the first nvcc; None: there is none."""
    return next(iter(find_nvccs()), None)


def knows(compiler: str, architecture: int) -> bool:
    """Whether an nvcc starts and can compile for an architecture, such as 90 for sm_90."""
    try:
        listed = subprocess.run([compiler, "--list-gpu-code"], capture_output=True, text=True)
    except OSError:
        return False
    return f"sm_{architecture}" in listed.stdout.split()


def architecture_of(device: torch.device) -> int:
    """The number of a GPU's architecture, such as 90 for sm_90."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
