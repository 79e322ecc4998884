"""What the kernels of `csrc` are asked to do, as they read it, and tensors as they take them."""

import ctypes
from ctypes import c_double, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""`speculative::Type`: the kernels' numbers of the dtypes of logits."""
Parameters = c_double * 4
"""`speculative::Parameters`: the numbers of a rule, the rest 0."""
Filter = c_double * 3
"""`speculative::Filter`: the numbers of `speculative.verification.filters.Filters`."""


OF_ROWS = ("uniforms", "seeds", "offsets", "temperatures", "top_ks", "top_ps", "min_ps", "allowed")
"""The tensors with a value, or several, for every sequence; each may be None."""


class Problem(ctypes.Structure):
    """What a kernel is asked to do: `speculative::Problem` of csrc/arithmetic.h, field by field."""

    _fields_ = (
        *((name, c_void_p) for name in ("target", "draft", "tokens", "lengths")),
        *((name, c_void_p) for name in (*OF_ROWS, "out", "log_probabilities")),
        *((f"{name}_strides", c_int64 * 2) for name in ("target", "draft", "token")),
        *((name, c_int64) for name in ("seed", "offset")),
        ("temperature", c_double),
        ("parameters", Parameters),
        ("filter", Filter),
        *((name, c_int32) for name in ("batch", "gamma", "vocabulary", "type", "method", "stream")),
        ("filters_draft", c_int32),
    )


def dense(logits: Tensor) -> Tensor:
    """The logits with a dense last dimension, copied only if it is not dense."""
    return logits if logits.stride(-1) == 1 or logits.shape[-1] == 1 else logits.contiguous()


def contiguous(tensor: Tensor | None) -> Tensor | None:
    """The tensor, copied if it is not contiguous; None stays None."""
    return None if tensor is None else tensor.contiguous()


def address(tensor: Tensor | None) -> int | None:
    """The address of a tensor's first element; None stays None, the null pointer."""
    return None if tensor is None else tensor.data_ptr()


def of_rows(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors of OF_ROWS, contiguous. They must live as long as their addresses are read."""
    return [contiguous(tensor) for tensor in tensors]
