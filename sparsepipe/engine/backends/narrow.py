"""float16 and bfloat16 for backends that have only float32 and float64."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsepipe.engine.precision import widened


def in_wide_types(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the forward or backward function of a backend so that it takes float16 and bfloat16.

    The tensors among its arguments are converted to float32, and its results, a tensor or a tuple
    of tensors and None, are rounded to the dtype of the first argument.
    """

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        dtype = args[0].dtype
        if dtype not in (torch.float16, torch.bfloat16):
            return function(*args)
        results = function(*(widened(a) if isinstance(a, Tensor) else a for a in args))
        if isinstance(results, Tensor):
            return results.to(dtype)
        return tuple(None if result is None else result.to(dtype) for result in results)

    return wrapper
