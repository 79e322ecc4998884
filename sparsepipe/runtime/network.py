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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from torch import Tensor, fx, nn

from sparsepipe.engine import layers
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.runtime.tracing import traced
from sparsepipe.runtime.values import Value
from systems.schema import InputError

SPARSE_TENSOR_PARTS = {"dense", *SparseTensor.__annotations__}
SPARSE_TENSOR_PARTS |= {
    name for name, value in vars(SparseTensor).items() if isinstance(value, property)
}
"""Attributes and methods of a sparse tensor that do not return one, such as `features`."""
SIZES = {"shape", "size", "ndim", "dim", "numel", "dtype", "device"}
"""Attributes and methods of a plain tensor that do not return one."""
WRITING = {"iadd", "isub", "imul", "itruediv"}
"""Python's operators that write into their first operand."""


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
        self._input, *nodes, output = traced(model).nodes
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
        nodes = list(chain.from_iterable(self._groups[first:end]))
        if any(_writes(self._model, node) for node in nodes):
            values = {node: graph.call_function(_copied, (own,)) for node, own in values.items()}
        for node in nodes:
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


def _writes(model: nn.Module, node: fx.Node) -> bool:
    """Whether a node writes into its argument, as `nn.ReLU(inplace=True)` and `x += y` do."""
    if node.op == "call_module":
        return bool(getattr(model.get_submodule(str(node.target)), "inplace", False))
    name = _operation(node)
    in_place = name in WRITING or (name.endswith("_") and not name.endswith("__"))
    return in_place or node.kwargs.get("inplace") is True


def _copied(value: Value) -> Value:
    """A value that a stage may write into: autograd allows no writing into what gathers gradients.

    Layers of sparse tensors write into none.
    """
    return value.clone() if isinstance(value, Tensor) else value


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
