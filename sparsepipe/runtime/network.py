"""Cuts a network into its layers, and makes stages of a pipeline from consecutive layers.

    network = Network(MinkVGG16(1, 40))
    head, tail = network.stage(0, 20), network.stage(20, len(network.layers))
    (logits,) = tail(*head(inputs))

The network is traced with torch.fx. A module of `sparsepipe.engine.layers` is one layer, and so are
PyTorch's modules, additions and `sparsepipe.engine.tensor.cat`. Layer i here is layer i of a
`ModelProfile` of the same network. Code that takes a sparse tensor apart (`x.features`, or an
`Interpolation`) is one layer together with all that follows, up to the `x.replace(...)` or
`SparseTensor(...)` that puts one together again: features without their voxels cannot be divided by
samples, so they must not cross from one stage to the next. The same holds for sizes of plain
tensors (`x.view(x.size(0), -1)`). A child of an `nn.Sequential` that torch.fx cannot trace is one
layer.

A value that is read beyond the next stage (the skips of MinkUNet) is handed through every stage in
between instead of being sent past it:

    layer 3 ----------- skip -----------> layer 90
    stage 0 [0 .. 9] --skip--> stage 1 [10 .. 50] --skip--> stage 2 [51 .. 101]

So a stage talks to its neighbours alone. What one cut costs does not depend on where the others
are, so that a planner can add up the costs of cuts. And a value always comes with the voxels that a
transposed convolution returns to.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

from torch import fx, nn

from sparsepipe.engine import layers
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.models import kit
from systems.schema import InputError

SPARSE_TENSOR_PARTS = {"dense", *SparseTensor.__annotations__}
SPARSE_TENSOR_PARTS |= {
    name for name, value in vars(SparseTensor).items() if isinstance(value, property)
}
"""Attributes and methods of a sparse tensor that do not return one, such as `features`."""
SIZES = {"shape", "size", "ndim", "dim", "numel", "dtype", "device"}
"""Attributes and methods of a plain tensor that do not return one."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a network. A module that runs several times is a layer each time."""

    name: str
    """The name that torch.fx gives it."""
    inputs: tuple[str, ...]
    """The names of the layers whose outputs it reads; the network's input is not among them."""
    operation: str
    """The layer as PyTorch prints it, such as "Dropout(p=0.5, inplace=False)", "add" or "cat"; a
    layer of several operations reads "features, relu, replace"."""
    parameter_bytes: int
    """The bytes of its parameters, without buffers."""


class StageModule(fx.GraphModule):
    """Consecutive layers as one module: `stage(*values)` returns a tuple of values.

    Its parameters and buffers are the network's own objects, under the network's names.
    """

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the values that it takes, in order."""
        return tuple(node.name for node in self.graph.find_nodes(op="placeholder"))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the values that it returns, in order; some may only pass through it."""
        return tuple(node.name for node in self.graph.output_node().all_input_nodes)


class Network:
    """A network's layers in the order in which they run, which is a topological one."""

    layers: tuple[Layer, ...]
    """The layers by number."""

    def __init__(self, model: nn.Module) -> None:
        """Trace `model`, which must take one value and return one. It is not changed.

        Other arguments of its `forward` keep their defaults.

        Raises:
            InputError: torch.fx cannot trace it, it takes or returns several values, or layers
                share parameters.
        """
        self._model = model
        self._input, *nodes, output = _traced(model).nodes
        _refuse_shared_parameters(model, nodes)
        self._groups = _groups(model, nodes)
        owner = {node: group[-1].name for group in self._groups for node in group}
        self.layers = tuple(_layer(model, group, owner) for group in self._groups)
        self._number = {node: i for i, group in enumerate(self._groups) for node in group}
        self._number |= {self._input: -1, output: len(self._groups)}
        self._last_use = {
            node: max((self._number[user] for user in node.users), default=-1)
            for node in (self._input, *nodes)
        }

    def crossing(self, position: int) -> tuple[str, ...]:
        """The names of the values that cross the cut before layer `position`, in a fixed order.

        They are made before the cut and read after it. At the two ends of the network these are its
        input and its output.
        """
        return tuple(node.name for node in self._crossing(position))

    def stage(self, first: int, end: int) -> StageModule:
        """The layers first, ..., end - 1 as a module that takes `crossing(first)` and returns
        `crossing(end)`.

        Raises:
            InputError: no such layers.
        """
        if not 0 <= first < end <= len(self._groups):
            raise InputError(
                f"a stage of the layers from {first} to before {end}: give 0 <= first < end <= "
                f"{len(self._groups)}"
            )
        graph = fx.Graph()
        values = {node: graph.placeholder(node.name) for node in self._crossing(first)}
        for node in chain.from_iterable(self._groups[first:end]):
            values[node] = graph.node_copy(node, values.__getitem__)
        graph.output(tuple(values[node] for node in self._crossing(end)))
        return StageModule(self._model, graph, class_name="StageModule")

    def stages(self, cuts: Sequence[int]) -> list[StageModule]:
        """All stages, given the numbers of the layers at which new ones begin, ascending."""
        bounds = [0, *cuts, len(self._groups)]
        return [self.stage(first, end) for first, end in pairwise(bounds)]

    def _crossing(self, position: int) -> list[fx.Node]:
        """The nodes behind `crossing`."""
        return [n for n, last in self._last_use.items() if self._number[n] < position <= last]


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


def _inputs(forward: Callable[..., Any]) -> list[str]:
    """The names of the arguments without a default; if there are none, the first argument."""
    _, *parameters = inspect.signature(forward).parameters.values()
    parameters = [p for p in parameters if p.kind != p.VAR_KEYWORD]
    required = [p for p in parameters if p.default is p.empty and p.kind != p.VAR_POSITIONAL]
    return [parameter.name for parameter in required or parameters[:1]]


def _traced(model: nn.Module) -> fx.Graph:
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
            except Exception:  # see `_traced`
                found.append(child)
    return found


def _groups(model: nn.Module, nodes: Sequence[fx.Node]) -> list[list[fx.Node]]:
    """The nodes of each layer, in order.

    Most layers are one node. A node that gives only a part of a sparse tensor, or a constant,
    begins a longer layer, since a part cannot cross to another stage. That layer ends with the last
    node that reads any of the parts in it.
    """
    number = {node: i for i, node in enumerate(nodes)}
    parts: set[fx.Node] = set()
    groups: list[list[fx.Node]] = []
    end = -1  # the last node of the layer that is being collected
    for i, node in enumerate(nodes):
        if i > end:
            groups.append([])
        groups[-1].append(node)
        if _is_part(model, node, parts):
            parts.add(node)
            end = max([end, *(number.get(user, len(nodes)) for user in node.users)])
    return groups


def _is_part(model: nn.Module, node: fx.Node, parts: set[fx.Node]) -> bool:
    """Whether a node gives a part of a sparse tensor, a size, or a constant, instead of a value.

    What is computed from parts alone is a part too, unless it is a new sparse tensor.
    """
    if isinstance(node.target, type) and issubclass(node.target, SparseTensor):
        return False
    if node.op == "call_module" and isinstance(
        model.get_submodule(str(node.target)), layers.Interpolation
    ):
        return True
    accesses = node.target is getattr or node.op == "call_method"
    return (accesses and _operation(node) in SPARSE_TENSOR_PARTS | SIZES) or parts.issuperset(
        node.all_input_nodes
    )


def _operation(node: fx.Node) -> str:
    """The name of the function, method or attribute that a node stands for."""
    if node.target is getattr:
        return str(node.args[1])
    return getattr(node.target, "__name__", str(node.target))


def _layer(model: nn.Module, group: Sequence[fx.Node], owner: dict[fx.Node, str]) -> Layer:
    """The description of the layer that a group of nodes is; `owner` names the layer of a node."""
    name = group[-1].name
    read = (owner.get(source) for node in group for source in node.all_input_nodes)
    modules = {n: model.get_submodule(str(n.target)) for n in group if n.op == "call_module"}
    return Layer(
        name=name,
        inputs=tuple(dict.fromkeys(made for made in read if made not in (None, name))),
        operation=", ".join(
            " ".join(repr(modules[n]).split()) if n in modules else _operation(n) for n in group
        ),
        parameter_bytes=sum(p.nbytes for module in modules.values() for p in module.parameters()),
    )


def _refuse_shared_parameters(model: nn.Module, nodes: Sequence[fx.Node]) -> None:
    """Refuse layers that share parameters: in two stages these would be trained apart."""
    owner: dict[int, str] = {}
    for node in nodes:
        if node.op != "call_module":
            continue
        module = model.get_submodule(str(node.target))
        for tensor in (*module.parameters(), *module.buffers()):
            if owner.setdefault(id(tensor), node.name) != node.name:
                raise InputError(
                    f"{type(model).__name__} cannot be cut into layers: {owner[id(tensor)]} and "
                    f"{node.name} share parameters"
                )
