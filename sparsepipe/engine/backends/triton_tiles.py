"""The tiles of Triton's convolutions: their sizes, and how numbers are multiplied and summed."""

from typing import Any

import torch
import triton
import triton.language as tl

TILES = {
    torch.float16: (64, 128, 32),
    torch.bfloat16: (64, 128, 32),
    torch.float32: (64, 64, 16),
    torch.float64: (16, 32, 16),
}
"""The largest rows, columns and depth of a tile for each dtype: what fits into the registers of 4
warps, on sm_80, sm_90 and sm_100, with Triton 3.6, 3.7 and 3.9."""
IEEE_TILE = (32, 32, 16)
"""That of float32 where it is multiplied without tensor cores, which takes more registers."""
REGISTERS = 255
"""What a thread may take of them: all there are. Not told so, the compiler may spill a few for the
sake of more threads."""
LEAST_CHANNELS = 16
"""The smallest side of a tile, since the hardware multiplies 16 x 16 numbers at once."""
ADDED = 1024
"""The numbers of a weight's gradient that a program adds from all parts."""
PROGRAMS = 1024
"""How many programs compute the gradient of a weight, where there are enough outputs. It is several
for each multiprocessor of any GPU. The number is fixed so that all GPUs add in the same order."""


def convolution_tile(dtype: torch.dtype, inner: int, outer: int) -> dict[str, Any]:
    """The constants of `convolution_kernel`: ROWS outputs x COLUMNS output channels in a tile, and
    DEPTH input channels that are summed at once; and the ADDED numbers of a program beside the
    tiles."""
    rows, columns, depth = _largest(dtype)
    shape = {"ROWS": rows, "COLUMNS": _part(outer, columns), "DEPTH": _part(inner, depth)}
    return shape | {"ADDED": ADDED} | _arithmetic(dtype)


def weight_gradient_tile(dtype: torch.dtype, inner: int, outer: int) -> dict[str, Any]:
    """The constants of `weight_gradient_kernel`: ROWS input channels x COLUMNS output channels in a
    tile, and DEPTH outputs that are summed at once."""
    rows, columns, depth = _largest(dtype)
    shape = {"ROWS": _part(inner, rows), "COLUMNS": _part(outer, columns), "DEPTH": depth}
    return shape | _arithmetic(dtype)


def _largest(dtype: torch.dtype) -> tuple[int, int, int]:
    """The largest rows, columns and depth of a tile."""
    exact = dtype == torch.float32 and _precision() == "ieee"
    return IEEE_TILE if exact else TILES[dtype]


def _part(channels: int, most: int) -> int:
    """The side of a tile over some channels: the next power of 2, at least 16 and at most
    `most`."""
    return min(max(triton.next_power_of_2(channels), LEAST_CHANNELS), most)


def _arithmetic(dtype: torch.dtype) -> dict[str, Any]:
    """What is said to both kernels, and to their compiler, of how numbers are multiplied and
    summed."""
    sum_type = tl.float64 if dtype == torch.float64 else tl.float32
    constants = {"PRECISION": _precision(), "SUM_TYPE": sum_type}
    return constants | {"enable_fp_fusion": True, "maxnreg": REGISTERS}


def _precision() -> str:
    """How float32 is multiplied. It follows what PyTorch is told for its own products.

    "tf32" rounds factors to TF32. "ieee" rounds nothing and uses no tensor cores. Where PyTorch is
    told neither, "tf32x3" adds three products in TF32: those of the rounded factors, and of each
    rounded factor with what rounding has left of the other. Its error, 8e-8, is like float32's own.
    PyTorch before 2.9 cannot be told "ieee".
    """
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # since PyTorch 2.9, where allow_tf32 may raise
        said = matmul.fp32_precision
        return said if said in ("tf32", "ieee") else "tf32x3"
    return "tf32" if matmul.allow_tf32 else "tf32x3"
