"""Traces a network with torch.fx: one input, one output, and our own layers as they are."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import fx, nn

from sparsepipe.engine import layers
from sparsepipe.models import kit
from systems.schema import InputError


def traced(model: nn.Module) -> fx.Graph:
    """The graph of a network of one input and one output; refuses others."""
    problem = f"{type(model).__name__} cannot be cut into layers"
    inputs = _inputs(type(model).forward)
    if len(inputs) != 1:
        raise InputError(
            f"{problem}: its forward needs {len(inputs)} values ({', '.join(inputs)}): give a "
            "network of one input, or defaults to the others"
        )
    try:
        graph = _Tracer(_untraceable_children(model)).trace(model)
    except Exception as error:  # fx raises whatever the network's own code raises on its proxies
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{problem}: torch.fx: {reason}") from error
    loose = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    if loose:
        raise InputError(
            f"{problem}: it reads {', '.join(loose)} outside any layer: give a network whose "
            "parameters all belong to layers"
        )
    if not isinstance(graph.output_node().args[0], fx.Node):
        raise InputError(f"{problem}: it returns several values or none: give one that returns one")
    return graph


def _untraceable_children(model: nn.Module) -> list[nn.Module]:
    """The children of an nn.Sequential, and of those in it, that torch.fx cannot trace: nothing has
    to be known of the inside of a module that passes on one value."""
    if type(model).forward is not nn.Sequential.forward:
        return []
    found = []
    for child in model.children():
        if isinstance(child, nn.Sequential):
            found += _untraceable_children(child)
        elif not _Tracer().is_leaf_module(child, ""):
            try:
                _Tracer().trace(child)
            except Exception:  # see `traced`
                found.append(child)
    return found


def _inputs(forward: Callable[..., Any]) -> list[str]:
    """The names of the arguments without a default; if there are none, the first argument."""
    _, *parameters = inspect.signature(forward).parameters.values()
    parameters = [p for p in parameters if p.kind != p.VAR_KEYWORD]
    required = [p for p in parameters if p.default is p.empty and p.kind != p.VAR_POSITIONAL]
    return [parameter.name for parameter in required or parameters[:1]]


class _Tracer(fx.Tracer):
    """Traces a network of one input."""

    def __init__(self, leaves: Sequence[nn.Module] = ()) -> None:
        """`leaves` are taken as they are, whatever is inside them."""
        super().__init__()
        self._leaves = {id(module) for module in leaves}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Our own layers, and classes that somebody derived from them, are leaves too."""
        homes = {base.__module__ for base in type(m).__mro__}
        ours = any(home == kit.__name__ or home.startswith(f"{layers.__name__}.") for home in homes)
        return ours or id(m) in self._leaves or super().is_leaf_module(m, module_qualified_name)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Trace the first argument only; Python gives the others their defaults."""
        (first,) = _inputs(root_fn)
        return root_fn, [self.root, self.create_proxy("placeholder", first, (), {})]
