"""The kernels of batch normalisation as their launches specialize them, for the tests that compile
them ahead of time."""

from collections.abc import Iterator
from typing import Any

import torch

from sparsepipe.engine import triton_norms
from tests.sparsepipe.engine.ahead_of_time import NAMES, compiled_for

SETTINGS = {"EPS": 1e-5, "MOMENTUM": 0.1}


def all_compiled(dtype: torch.dtype, capability: int) -> Iterator[Any]:
    """Both kernels with a ReLU: in training with a shortcut, and in evaluation without one."""
    for of_batch in (True, False):
        for kernel in (triton_norms.norm_kernel, triton_norms.norm_gradient_kernel):
            yield _compiled(kernel, dtype, capability, of_batch)


def _compiled(kernel: Any, dtype: torch.dtype, capability: int, of_batch: bool) -> Any:
    """A kernel for features of a dtype."""
    wide = torch.promote_types(dtype, torch.float32)
    rows = ("features", "gradient", "shortcut", "output", "of_features", "of_shortcut")
    columns = ("weight", "bias", "running_mean", "running_var", "means", "factors")
    pointers = dict.fromkeys(rows, f"*{NAMES[dtype]}") | {"batches": "*i64"}
    pointers |= dict.fromkeys((*columns, "of_weight", "of_bias"), f"*{NAMES[wide]}")
    given = SETTINGS | triton_norms.tile(dtype) | {"OF_BATCH": of_batch, "RELU": True}
    if not of_batch:
        given |= {"shortcut": None, "of_shortcut": None}
    constants = {name: given[name] for name in kernel.arg_names if name in given}
    options = {name: given[name] for name in ("num_warps", "enable_fp_fusion")}
    divisible = ("channels", "gradient_step")
    return compiled_for(kernel, pointers, constants, capability, options, divisible)
