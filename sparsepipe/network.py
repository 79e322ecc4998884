"""Cut a network into its layers, and runs of layers into the stages of a pipeline.

    network = Network(MinkVGG16(1, 40))
    head, tail = network.stage(0, 20), network.stage(20, len(network.layers))
    (logits,) = tail(*head(inputs))

The network is traced with torch.fx. What a kit makes is one layer, and so are additions and
concatenations; layer i is layer i of a `ModelProfile` of the same network.

Values that layers beyond the next stage read (the skips of MinkUNet) are handed through every stage
in between, not sent past it. A stage then talks to its neighbours alone, what a cut costs does not
depend on where the others are, so that a planner can add up cuts, and a value always comes with the
voxels that a transposed convolution returns to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import fx, nn

from sparsepipe import layers
from sparsepipe.models import kit
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a network; a module that runs several times is a layer each time."""

    name: str
    inputs: tuple[str, ...]
    """Names of the layers whose outputs it reads; none for one that reads the network's input."""
    operation: str
    """The layer as PyTorch prints it, such as "Dropout(p=0.5, inplace=False)"; "add" or "cat"."""
    parameter_bytes: int


class Stage(fx.GraphModule):
    """A run of layers: stage(*values) returns a tuple; `inputs` and `outputs` name the values.

    Parameters and buffers are the network's own objects, under the network's names.
    """

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values that it takes, in order."""
        return tuple(node.name for node in self.graph.find_nodes(op="placeholder"))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the values that it returns, in order, those that only pass by included."""
        return tuple(node.name for node in self.graph.output_node().all_input_nodes)


class Network:
    """A network's layers in the order in which they run, which is a topological one."""

    layers: tuple[Layer, ...]

    def __init__(self, model: nn.Module) -> None:
        """Trace `model`, which takes one value and returns one. It is not changed.

        Raises:
            InputError: torch.fx cannot trace it, or layers share parameters.
        """
        self._model = model
        nodes = list(_traced(model).nodes)
        self._input, self._nodes, output = nodes[0], nodes[1:-1], nodes[-1]
        _refuse_shared_parameters(model, self._nodes)
        self.layers = tuple(_layer(model, node) for node in self._nodes)
        number = {node: i for i, node in enumerate((*self._nodes, output))}
        self._last_use = {
            node: max((number[user] for user in node.users), default=-1)
            for node in (self._input, *self._nodes)
        }

    def crossing(self, position: int) -> tuple[str, ...]:
        """Names of the values that cross a cut before layer `position`, in a fixed order: made by
        a layer before it and read by one after it. At the ends, the network's input and output."""
        return tuple(node.name for node in self._crossing(position))

    def stage(self, first: int, end: int) -> Stage:
        """Layers first, ..., end - 1: takes `crossing(first)`, returns `crossing(end)`.

        Raises:
            InputError: no such layers.
        """
        if not 0 <= first < end <= len(self._nodes):
            raise InputError(
                f"a stage of the layers from {first} to before {end}: give 0 <= first < end <= "
                f"{len(self._nodes)}"
            )
        graph = fx.Graph()
        values = {node: graph.placeholder(node.name) for node in self._crossing(first)}
        for node in self._nodes[first:end]:
            values[node] = graph.node_copy(node, values.__getitem__)
        graph.output(tuple(values[node] for node in self._crossing(end)))
        return Stage(self._model, graph, class_name="Stage")

    def stages(self, cuts: Sequence[int]) -> list[Stage]:
        """The stages between the cuts, which are layer numbers that ascend: one more than cuts."""
        bounds = [0, *cuts, len(self._nodes)]
        return [self.stage(first, end) for first, end in pairwise(bounds)]

    def _crossing(self, position: int) -> list[fx.Node]:
        before = [self._input, *self._nodes[:position]]
        return [node for node in before if self._last_use[node] >= position]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = type(m).__module__ in (layers.__name__, kit.__name__)
        return ours or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module) -> fx.Graph:
    name = type(model).__name__
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # fx raises whatever the network's own code raises on its proxies
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{name} cannot be cut into layers: torch.fx: {reason}") from error
    kinds = [node.op for node in graph.nodes]
    if kinds.count("placeholder") != 1 or "get_attr" in kinds:
        raise InputError(
            f"{name} cannot be cut into layers: give a network of one input whose parameters all "
            "belong to layers"
        )
    return graph


def _layer(model: nn.Module, node: fx.Node) -> Layer:
    module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    function = getattr(node.target, "__name__", str(node.target))
    return Layer(
        name=node.name,
        inputs=tuple(source.name for source in node.all_input_nodes if source.op != "placeholder"),
        operation=function if module is None else " ".join(repr(module).split()),
        parameter_bytes=0 if module is None else sum(p.nbytes for p in module.parameters()),
    )


def _refuse_shared_parameters(model: nn.Module, nodes: Sequence[fx.Node]) -> None:
    """They could come to lie in two stages, be trained in both, and drift apart."""
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
