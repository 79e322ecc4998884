"""Finds the Linear layers of an FC part that can be held in columns: a chain of layers.

In a chain every layer reads the layer before it and nothing else. Between its Linears there are
only operations that compute value by value, such as ReLU and dropout, so that a worker that has a
slice of a Linear's outputs can compute the same slice of the next Linear's inputs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from stanza.cut.network import is_size
from stanza.cut.separate import Parts
from systems.schema import InputError

_ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Dropout,
    nn.Identity,
)
_ELEMENTWISE_FUNCTIONS = {F.relu, torch.relu, F.gelu, F.silu, torch.tanh, torch.sigmoid, F.dropout}
_ELEMENTWISE_METHODS = {"relu", "relu_", "tanh", "sigmoid", "contiguous"}
_RESHAPES = {torch.flatten, torch.reshape, torch.squeeze, "flatten", "reshape", "view", "squeeze"}


def linears(parts: Parts, workers: int = 1) -> dict[str, Any]:
    """Return the Linear layers of the FC part, by name, in order.

    Layers that split themselves (see `ColumnLinear`) count as such.

    Raises:
        InputError: the FC part is not a chain of Linear and elementwise layers, or a layer has
            fewer inputs than there are `workers`.
    """
    layers = fc_chain(parts)[1]
    for name, layer in layers.items():
        if layer.in_features < workers:
            raise InputError(
                f"--stanza.fc-workers {workers}: {name} has {layer.in_features} inputs to split; "
                f"give at most {layer.in_features}"
            )
    return layers


class _Tracer(fx.Tracer):
    """Traces the FC part, without going into the layers that split themselves."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_linear(m) or super().is_leaf_module(m, module_qualified_name)


def _is_linear(module: nn.Module) -> bool:
    """Whether a module can be held in columns: a Linear, or a layer that splits itself."""
    return isinstance(module, nn.Linear) or callable(getattr(module, "columns", None))


def fc_chain(parts: Parts) -> tuple[list[fx.Node], dict[str, Any]]:
    """Check that the FC part is a chain, and return its nodes in order and its Linears by name.

    The reshapes at its beginning are left out: the activations arrive flat.

    Raises:
        InputError: it is no chain of Linear and elementwise layers.
    """
    layers: dict[str, Any] = {}
    nodes: list[fx.Node] = []
    previous, width = None, parts.cut_values
    for node in _Tracer().trace(parts.fc).nodes:
        # A size, such as x.shape[0], is known on every rank.
        if is_size(node):
            continue
        sources = [source for source in node.all_input_nodes if not is_size(source)]
        # Every node must read the node before it, and nothing else.
        if previous is not None and sources != [previous]:
            raise _refusal(node, parts.fc, "does not read the layer before it alone")
        previous = node
        if node.op in ("placeholder", "output") or (not layers and _reshapes(node, parts.fc)):
            continue
        module: Any = None
        if node.op == "call_module":
            module = parts.fc.get_submodule(str(node.target))
        if module is not None and _is_linear(module):
            # Its inputs are all of the cut, or all outputs of the Linear before it.
            if node.target in layers or module.in_features != width:
                raise _refusal(node, parts.fc, "is used twice, or not for whole samples")
            layers[str(node.target)], width = module, module.out_features
        elif not _elementwise(node, module):
            raise _refusal(node, parts.fc, "is no Linear and not elementwise")
        nodes.append(node)
    _refuse_tied(layers)
    if not layers:
        raise _refusal(previous, parts.fc, "ends a fully connected part without a Linear")
    return nodes, layers


def _refuse_tied(layers: dict[str, Any]) -> None:
    """Refuse a parameter that two Linears share: each would train columns of its own."""
    owner: dict[int, str] = {}
    for name, layer in layers.items():
        for parameter in layer.parameters():
            first = owner.setdefault(id(parameter), name)
            if first != name:
                raise InputError(
                    f"--stanza.fc-parallel columns: {first} and {name} share a parameter; give "
                    "--stanza.fc-parallel replicas"
                )


def _reshapes(node: fx.Node, fc: nn.Module) -> bool:
    """Whether a node only changes the shape of its input."""
    if node.op == "call_module":
        return isinstance(fc.get_submodule(str(node.target)), nn.Flatten)
    return node.target in _RESHAPES


def _elementwise(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node, which calls `module` if that is not None, computes value by value."""
    if module is not None:
        return isinstance(module, _ELEMENTWISE)
    return node.target in _ELEMENTWISE_FUNCTIONS | _ELEMENTWISE_METHODS


def _refusal(node: fx.Node | None, fc: nn.Module, why: str) -> InputError:
    """Make the error that names the node, and the next layer if the node is none itself."""
    assert node is not None
    name = str(getattr(node.target, "__name__", node.target))
    layer = node
    while layer.op not in ("call_module", "output"):
        layer = layer.next
    if layer.op == "call_module":
        described = f"{layer.target} ({type(fc.get_submodule(str(layer.target))).__name__})"
        name = described if layer is node else f"{name} before {described}"
    return InputError(
        f"--stanza.fc-parallel columns: {name} {why}; give --stanza.fc-parallel replicas"
    )
