"""Functions on sparse tensors that torch.fx records as one call, however they were imported."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch.overrides import handle_torch_function, has_torch_function

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def traceable(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate a function so that torch.fx records a call of it, as it records PyTorch's functions.

    While torch.fx traces a network, values are `fx.Proxy` objects. These have a method
    `__torch_function__`, which puts a call into the graph instead of making it. The decorated
    function looks for that method on its arguments, and on the members of lists and tuples among
    them, and hands itself over to it.
    """

    @functools.wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        values: list[Any] = []
        for argument in (*args, *kwargs.values()):
            values += argument if isinstance(argument, list | tuple) else [argument]
        if has_torch_function(values):
            result: Result = handle_torch_function(wrapper, values, *args, **kwargs)
            return result
        return function(*args, **kwargs)

    return wrapper
