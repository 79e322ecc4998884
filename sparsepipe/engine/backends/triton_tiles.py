"""The tiles of Triton's convolutions: their sizes, and how numbers are multiplied and summed."""

from typing import Any

import torch
import triton
import triton.language as tl

TILES = {
    torch.float16: (64, 128, 64),
    torch.bfloat16: (64, 128, 64),
    torch.float32: (64, 32, 32),
    torch.float64: (32, 32, 16),
}
"""The largest rows, columns and depth of a tile for each dtype: what fits into registers with 4
warps."""
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
    rows, columns, depth = TILES[dtype]
    shape = {"ROWS": rows, "COLUMNS": _part(outer, columns), "DEPTH": _part(inner, depth)}
    return shape | {"ADDED": ADDED} | _arithmetic(dtype)


def weight_gradient_tile(dtype: torch.dtype, inner: int, outer: int) -> dict[str, Any]:
    """The constants of `weight_gradient_kernel`: ROWS input channels x COLUMNS output channels in a
    tile, and DEPTH outputs that are summed at once."""
    rows, columns, depth = TILES[dtype]
    shape = {"ROWS": _part(inner, rows), "COLUMNS": _part(outer, columns), "DEPTH": depth}
    return shape | _arithmetic(dtype)


def _part(channels: int, most: int) -> int:
    """The side of a tile over some channels: the next power of 2, at least 16 and at most
    `most`."""
    return min(max(triton.next_power_of_2(channels), LEAST_CHANNELS), most)


def _arithmetic(dtype: torch.dtype) -> dict[str, Any]:
    """The constants of both kernels that say how numbers are multiplied and summed."""
    sum_type = tl.float64 if dtype == torch.float64 else tl.float32
    return {"PRECISION": _precision(), "SUM_TYPE": sum_type, "enable_fp_fusion": True}


def _precision() -> str:
    """Whether float32 is rounded to TF32 in products ("tf32") or not ("ieee"), as in PyTorch."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # since PyTorch 2.9, where allow_tf32 may raise
        return "tf32" if matmul.fp32_precision == "tf32" else "ieee"
    return "tf32" if matmul.allow_tf32 else "ieee"
