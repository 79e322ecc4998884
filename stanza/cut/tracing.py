"""Traces a network with torch.fx, or says which line of its code torch.fx cannot follow."""

import contextlib
import inspect
import linecache
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from stanza.cut.side_effects import state_kept
from systems.profiles.emulated import EmulatedLayer
from systems.schema import InputError

_TORCH = str(Path(torch.__file__).parent)
_LINE = "line of code"
"""Where nodes keep the file and the number of the line that made them."""


def trace(model: nn.Module) -> fx.Graph:
    """The graph of `model` in its present mode, from the images to what it returns.

    Arguments of `forward` besides the images get their defaults.

    Raises:
        InputError: an argument has no default, or torch.fx cannot follow the code.
    """
    name = type(model).__name__
    if needed := _needed_arguments(model):
        raise InputError(
            f"{name} cannot be separated: besides the images its forward needs "
            f"{', '.join(needed)}; give defaults, or train it with ddp or ps"
        )
    tracer = _Tracer()
    try:
        with state_kept(model):
            graph = tracer.trace(model)
            _refuse_hooks(tracer, model)
        return _with_own_reads(graph)
    except Exception as error:  # fx raises whatever the network's own code raises on its proxies
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{name} cannot be separated: torch.fx cannot trace it ({reason}{_place(error)}); "
            "train it with ddp or ps"
        ) from error


def _refuse_hooks(tracer: fx.Tracer, model: nn.Module) -> None:
    """Raise TypeError for a hook on gradients that a graph would lose: on a module which it takes
    apart."""
    for name, module in model.named_modules():
        hooked = module._backward_hooks or module._backward_pre_hooks
        if hooked and not tracer.is_leaf_module(module, name):
            raise TypeError(f"a graph forgets the backward hook of {name or 'the network itself'}")


class _Tracer(fx.Tracer):
    """Traces a network down to torch's own layers and emulated ones, which stay whole."""

    # Without this, code that reads or changes a buffer would run now, and never again.
    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self.surroundings = _surroundings()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module stays whole. The network itself never does."""
        leaf = isinstance(m, EmulatedLayer) or super().is_leaf_module(m, module_qualified_name)
        return leaf and m is not self.root

    def create_proxy(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        """Add an operation to the graph, unless the graph could not repeat it.

        Raises:
            TypeError: a mode is on here that graphs do not keep, such as torch.no_grad.
        """
        if _surroundings() != self.surroundings:
            raise TypeError("a graph forgets torch.no_grad and torch.autocast, which are on here")
        proxy = super().create_proxy(*args, **kwargs)
        proxy.node.meta[_LINE] = _line_of_caller()
        return proxy

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Trace a call of the network with images alone.

        It is called as its users call it, so that its hooks run and Python fills in the defaults.
        """

        def network(images: fx.Proxy) -> Any:
            return self.root(images)

        return network, [self.create_proxy("placeholder", "images", (), {})]


def _with_own_reads(graph: fx.Graph) -> fx.Graph:
    """Give every user of a parameter or buffer a node of its own that reads it.

    Each user can then be on either side of the cut.
    """
    for node in graph.find_nodes(op="get_attr"):
        for user in tuple(node.users)[1:]:
            with graph.inserting_before(node):
                user.replace_input_with(node, graph.node_copy(node))
    return graph


def _surroundings() -> tuple[bool, ...]:
    """The modes of PyTorch that change what operations do and that no graph keeps."""
    autocast = (torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    return (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast)


def _needed_arguments(model: nn.Module) -> list[str]:
    """The arguments of `forward`, after the first, that have no default."""
    arguments = list(inspect.signature(model.forward).parameters.values())[1:]
    collecting = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [a.name for a in arguments if a.default is a.empty and a.kind not in collecting]


def place_of(node: fx.Node) -> str:
    """Say which line of the network's code a node comes from, if that is known."""
    path, number = node.meta.get(_LINE, ("", 0))
    return f" ({_described(path, number)})" if path else ""


def _line_of_caller() -> tuple[str, int]:
    """The file and the number of the line that runs: the innermost one that is neither PyTorch's
    nor this file's."""
    frame = inspect.currentframe()
    while frame is not None and _foreign(frame.f_code.co_filename):
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame is not None else ("", 0)


def _place(error: Exception) -> str:
    """Say where an error arose: the innermost line that is neither PyTorch's nor this file's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not _foreign(frame.filename):
            return f"; {_described(frame.filename, frame.lineno or 0)}"
    return ""


def _foreign(path: str) -> bool:
    """Whether a file is no part of the network's code."""
    return path.startswith(_TORCH) or path in (__file__, contextlib.__file__)


def _described(path: str, number: int) -> str:
    """A line of code in words, with its text where the file can be read."""
    code = linecache.getline(path, number).strip()
    return f"line {number} of {Path(path).name}{f': {code}' if code else ''}"
