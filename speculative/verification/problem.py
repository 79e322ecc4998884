"""What the kernels of `csrc` are asked to do, as they read it, and tensors as they take them."""

import ctypes
from collections.abc import Mapping
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
"""The tensors with a value, or several, for every sequence."""
POINTERS = ("target", "draft", "tokens", "lengths", *OF_ROWS, "out", "log_probabilities")
"""The tensors that a kernel reads or fills; all but `target` and `out` may be null."""
STRIDED = ("target", "draft", "tokens")
"""Those of them that need not be contiguous."""


class Problem(ctypes.Structure):
    """What a kernel is asked to do: `speculative::Problem` of csrc/arithmetic.h, field by field."""

    _fields_ = (
        *((name, c_void_p) for name in POINTERS),
        *((f"{name}_strides", c_int64 * 2) for name in ("target", "draft", "token")),
        *((name, c_int64) for name in ("seed", "offset")),
        ("temperature", c_double),
        ("parameters", Parameters),
        ("filter", Filter),
        *((name, c_int32) for name in ("batch", "gamma", "vocabulary", "type", "method", "stream")),
        ("filters_draft", c_int32),
    )


def is_dense(logits: Tensor) -> bool:
    """Whether the logits' last dimension is dense, as kernels read it."""
    return logits.stride(-1) == 1 or logits.shape[-1] == 1


def dense(logits: Tensor) -> Tensor:
    """The logits with a dense last dimension, copied only if it is not dense."""
    return logits if is_dense(logits) else logits.contiguous()


def posed(problem: Problem, seed: int, offset: int, tensors: Mapping[str, Tensor]) -> Problem:
    """A copy of the problem with the addresses of these tensors, by their names in `POINTERS`. They
    must live until it is solved."""
    copy = Problem.from_buffer_copy(problem)
    copy.seed, copy.offset = seed, offset
    for name, tensor in tensors.items():
        setattr(copy, name, tensor.data_ptr())
    return copy
