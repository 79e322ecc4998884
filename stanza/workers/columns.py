"""FC layers split over FC workers by the columns of their weights: `--stanza.fc-parallel columns`.

Worker j of f holds, of every Linear with the weight W [out, in], the columns W[:, in_j] of its
slice of the inputs and the bias of its slice of the outputs. For B gathered samples:

    forward    x_j [B, in_j] @ W[:, in_j].T    a part of the sum that is y [B, out]
               reduce-scatter by features      y_j [B, out_j]: the next Linear's inputs
    backward   all-gather by features          the gradient of y [B, out]

The last Linear's outputs are scattered by samples instead: every worker computes the loss of its
share of them. No gradient of an FC parameter leaves its worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from stanza.cut.network import is_size
from stanza.cut.separate import Parts
from stanza.layout import even_slice
from systems.network.transport import Transport
from systems.runs.state import Place, box
from systems.schema import InputError

COLUMNS = "columns"
"""The channel of the workers' exchanges."""

_ELEMENTWISE: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid),
    *(nn.Dropout, nn.Identity),
)
_ELEMENTWISE_FUNCTIONS = {F.relu, torch.relu, F.gelu, F.silu, torch.tanh, torch.sigmoid, F.dropout}
_ELEMENTWISE_METHODS = {"relu", "relu_", "tanh", "sigmoid", "contiguous"}
_RESHAPES = {torch.flatten, torch.reshape, torch.squeeze, "flatten", "reshape", "view", "squeeze"}


@dataclass(frozen=True)
class Peers:
    """The FC workers that hold the columns of one FC part, and this rank among them."""

    transport: Transport
    ranks: Sequence[int]

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self.ranks)

    @property
    def index(self) -> int:
        """This rank's place among them."""
        return self.ranks.index(self.transport.world.rank)

    def own(self, size: int) -> slice:
        """This rank's slice of `size` features or samples."""
        return even_slice(size, self.index, self.count)

    def reduce_scatter(self, partial: Tensor, dimension: int) -> Tensor:
        """This rank's slice, along `dimension`, of the sum of everyone's `partial` [B, out]."""
        size = partial.shape[dimension]
        slices = [even_slice(size, i, self.count) for i in range(self.count)]
        outgoing = [partial.narrow(dimension, s.start, s.stop - s.start) for s in slices]
        outgoing = [values.contiguous() for values in outgoing]
        own = outgoing[self.index]
        incoming = [own if i == self.index else torch.empty_like(own) for i in range(self.count)]
        self._swap(outgoing, incoming)
        total = incoming[0].clone()
        for values in incoming[1:]:  # in rank order: the sum is the same in every run
            total += values
        return total

    def all_gather(self, own: Tensor, dimension: int, size: int) -> Tensor:
        """Everyone's slices of a tensor that has `size` values along `dimension`, joined."""
        incoming = []
        for index in range(self.count):
            held, shape = even_slice(size, index, self.count), list(own.shape)
            shape[dimension] = held.stop - held.start
            incoming.append(own.new_empty(shape))
        incoming[self.index] = own.contiguous()
        self._swap([incoming[self.index]] * self.count, incoming)
        return torch.cat(incoming, dimension)

    def _swap(self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor]) -> None:
        """A message to and from every other worker. Point-to-point, since gloo's reduce-scatter
        moves twice the bytes."""
        others = [(i, rank) for i, rank in enumerate(self.ranks) if i != self.index]
        transfers = [self.transport.irecv(incoming[i], rank, COLUMNS) for i, rank in others]
        transfers += [self.transport.isend(outgoing[i], rank, COLUMNS) for i, rank in others]
        for transfer in transfers:
            transfer.wait()


class _ReduceScatter(torch.autograd.Function):
    """Partial sums [B, out] to this worker's slice of the sum, by samples (0) or features (1)."""

    @staticmethod
    def forward(ctx: Any, partial: Tensor, peers: Peers, dimension: int) -> Tensor:
        ctx.peers, ctx.dimension, ctx.size = peers, dimension, partial.shape[dimension]
        return peers.reduce_scatter(partial, dimension)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.peers.all_gather(gradients[0], ctx.dimension, ctx.size), None, None


class ColumnLinear(nn.Module):
    """One worker's columns of a Linear: [B, in_j] to [B, out_j], or to [B_j, out] by samples.

    Its parameters are views of the Linear's own, whose model is thus trained in place. A layer that
    is no nn.Linear but has `in_features`, `out_features` and `columns(index, count)` gives its own
    module for the part, which maps [B, in_j] to partial sums [B, out] without bias.
    """

    def __init__(self, layer: Any, peers: Peers, *, by_samples: bool) -> None:
        super().__init__()
        self._peers, self._dimension = peers, 0 if by_samples else 1
        self.bias: nn.Parameter | None = None
        outputs = peers.own(layer.out_features)
        self.places: list[tuple[Place, nn.Parameter]] = []
        """Of a Linear: its parameters here, and where they belong in the Linear's own."""
        if isinstance(layer, nn.Linear):
            weight, bias = held(layer, peers.index, peers.count)
            product = _Product(nn.Parameter(weight, layer.weight.requires_grad))
            self.partial: nn.Module = product
            first = peers.own(layer.in_features).start
            self.places.append((box(layer.weight, (0, first)), product.weight))
            if bias is not None:
                self.bias = nn.Parameter(bias, layer.bias.requires_grad)
                self.places.append((box(layer.bias, (outputs.start,)), self.bias))
        else:
            self.partial = layer.columns(peers.index, peers.count)
        self._padding = (outputs.start, layer.out_features - outputs.stop)

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply, exchange partial sums. The bias joins before the sum, which holds it once."""
        partial: Tensor = self.partial(inputs)
        if self.bias is not None:
            partial = partial + F.pad(self.bias, self._padding)
        output: Tensor = _ReduceScatter.apply(partial, self._peers, self._dimension)
        return output


class _Product(nn.Module):
    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight)


def held(layer: nn.Linear, index: int, count: int) -> tuple[Tensor, Tensor | None]:
    """Views of the weight's columns and of the bias that worker number `index` holds."""
    weight = layer.weight.detach()[:, even_slice(layer.in_features, index, count)]
    if layer.bias is None:
        return weight, None
    return weight, layer.bias.detach()[even_slice(layer.out_features, index, count)]


def columns_of(parts: Parts, peers: Peers) -> nn.Module:
    """This worker's share of the FC part: [B, A_j] to the logits of its share of the samples.

    Raises:
        InputError: see `linears`.
    """
    nodes, layers = _chain(parts)
    graph, modules, last = fx.Graph(), dict[str, nn.Module](), list(layers)[-1]
    value = graph.placeholder("activations")
    for node in nodes:
        value = graph.node_copy(node, {node.all_input_nodes[0]: value}.__getitem__)
        name = str(node.target)
        if name in layers:
            modules[name] = ColumnLinear(layers[name], peers, by_samples=name == last)
        elif node.op == "call_module":
            modules[name] = parts.fc.get_submodule(name)
    graph.output(value)
    return fx.GraphModule(modules, graph)


def linears(parts: Parts, workers: int = 1) -> dict[str, Any]:
    """The FC part's Linears (or what stands for them), by name, in order.

    Raises:
        InputError: the FC part is no chain of them, there is more than elementwise between them, or
            one has fewer inputs than there are `workers` to hold them.
    """
    layers = _chain(parts)[1]
    for name, layer in layers.items():
        if layer.in_features < workers:
            raise InputError(
                f"--stanza.fc-workers {workers}: {name} has {layer.in_features} inputs to split; "
                f"give at most {layer.in_features}"
            )
    return layers


def collect(parts: Parts, transport: Transport, ranks: Sequence[int], target: int, on: str) -> None:
    """Bring the trained columns of `ranks` into the model of rank `target`, over channel `on`."""
    me = transport.world.rank
    for layer in linears(parts).values():
        for index, rank in enumerate(ranks):
            if rank == target or me not in (rank, target) or not isinstance(layer, nn.Linear):
                continue
            for values in held(layer, index, len(ranks)):
                if values is None or not values.numel():
                    continue
                message = values.contiguous()
                if me == rank:
                    transport.isend(message, target, on).wait()
                else:
                    transport.irecv(message, rank, on).wait()
                    values.copy_(message)


class _Tracer(fx.Tracer):
    """Layers that split themselves are leaves as well."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _is_linear(m) or super().is_leaf_module(m, module_qualified_name)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or callable(getattr(module, "columns", None))


def _chain(parts: Parts) -> tuple[list[fx.Node], dict[str, Any]]:
    """The FC part's nodes in order, without reshapes, which flat activations do not need; and its
    Linears by name."""
    layers: dict[str, Any] = {}
    nodes: list[fx.Node] = []
    previous, width = None, parts.cut_values
    for node in _Tracer().trace(parts.fc).nodes:
        if is_size(node):
            continue
        sources = [source for source in node.all_input_nodes if not is_size(source)]
        if previous is not None and sources != [previous]:
            raise _refusal(node, parts.fc, "does not read the layer before it alone")
        previous = node
        if node.op in ("placeholder", "output") or (not layers and _reshapes(node, parts.fc)):
            continue
        module: Any = None
        if node.op == "call_module":
            module = parts.fc.get_submodule(str(node.target))
        if module is not None and _is_linear(module):
            if node.target in layers or module.in_features != width:
                raise _refusal(node, parts.fc, "is used twice, or not for whole samples")
            layers[str(node.target)], width = module, module.out_features
        elif not _elementwise(node, module):
            raise _refusal(node, parts.fc, "is no Linear and not elementwise")
        nodes.append(node)
    if not layers:
        raise _refusal(previous, parts.fc, "ends a fully connected part without a Linear")
    return nodes, layers


def _reshapes(node: fx.Node, fc: nn.Module) -> bool:
    if node.op == "call_module":
        return isinstance(fc.get_submodule(str(node.target)), nn.Flatten)
    return node.target in _RESHAPES


def _elementwise(node: fx.Node, module: nn.Module | None) -> bool:
    if module is not None:
        return isinstance(module, _ELEMENTWISE)
    return node.target in _ELEMENTWISE_FUNCTIONS | _ELEMENTWISE_METHODS


def _refusal(node: fx.Node | None, fc: nn.Module, why: str) -> InputError:
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
