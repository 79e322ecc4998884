"""Functions of sparse tensors that torch.fx records as one call, however they were imported."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def traceable(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """The function, as PyTorch's own functions are: it hands itself to the `__torch_function__` of
    an argument that has one. While torch.fx traces a network, values are `fx.Proxy` objects, which
    have one that puts the call into the graph.

    Arguments are looked at, and the members of those that are lists or tuples.
    """

    @functools.wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        given: list[Any] = []
        for argument in (*args, *kwargs.values()):
            given += argument if isinstance(argument, list | tuple) else [argument]
        if has_torch_function(given):
            result: Result = handle_torch_function(wrapper, given, *args, **kwargs)
            return result
        return function(*args, **kwargs)

    return wrapper
