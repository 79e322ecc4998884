"""Builds the kernels of `csrc` with g++ or nvcc when they are first used (`systems.build`)."""

import ctypes
import functools
import os
import platform
import shutil
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
    compiler = find_nvcc()
    if compiler is None:
        warn("no nvcc here", INSTEAD)
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


def find_nvcc() -> str | None:
    """The path of nvcc: the one on PATH, or the one below CUDA_HOME; None: there is none."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")


def architecture_of(device: torch.device) -> int:
    """The number of a GPU's architecture, such as 90 for sm_90."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
