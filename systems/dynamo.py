"""Keeps torch from importing its compiler in ranks that compile nothing.

Optimizers and DistributedDataParallel import torch._dynamo, and with it sympy, only to tell the
compiler to leave some functions alone. That takes 2 s of a core on every rank, as long as torch
itself. `postpone` puts a small module in its place, which has what they ask for. As soon as
somebody asks it for more, as torch.compile does, it imports the real one and steps aside.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

NAME = "torch._dynamo"


class PostponedDynamo(ModuleType):
    """A module that stands in the place of torch._dynamo until somebody needs the real one."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self.utils = _Part("utils", get_optimize_ddp_mode=lambda: "ddp_optimizer")
        self.trace_rules = _Part("trace_rules", clear_lru_cache=lambda: None)

    @staticmethod
    def graph_break() -> None:
        """Do nothing: nothing is compiled, so there is no graph to break."""

    @staticmethod
    def disable(function: Callable[..., Any] | None = None, *arguments: Any, **options: Any) -> Any:
        """Keep the compiler away from a function. One of torch's own is returned as it is; for any
        other the real module is imported."""
        if function is not None and str(getattr(function, "__module__", "")).startswith("torch."):
            return function
        return _real().disable(function, *arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name in ("__file__", "__spec__", "__wrapped__"):  # inspect looks at every module
            raise AttributeError(name)
        return getattr(_real(), name)


class _Part(SimpleNamespace):
    """A few functions of a module inside torch._dynamo; others are taken from the real module."""

    def __init__(self, name: str, **functions: Callable[[], Any]) -> None:
        super().__init__(**functions)
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(f"{_real().__name__}.{self._name}"), name)


def _real() -> Any:
    """The real torch._dynamo, which is imported now if it has not been."""
    if isinstance(sys.modules.get(NAME), PostponedDynamo):
        del sys.modules[NAME]
    return importlib.import_module(NAME)


def postpone() -> None:
    """Let torch._dynamo be imported only once it is needed; no effect if it is there already."""
    sys.modules.setdefault(NAME, PostponedDynamo())
