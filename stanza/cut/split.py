"""Cut a CNN in two: a convolutional part and an FC part that share the original's parameters.

    parts = split(model, image_shape=(3, 224, 224))
    logits = parts.fc(parts.conv(images))        # the very bits of model(images), in eval mode

The network's graph is traced with torch.fx and cut by the rule of `stanza.cut.rule`.
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from stanza.cut.network import Network
from stanza.cut.rule import Cut, find_cut
from stanza.cut.tracing import trace
from stanza.models.dry_run import materialise
from systems.modes import modes_restored
from systems.schema import InputError


@dataclass(frozen=True)
class Split:
    """The two parts of a network. Parameters and buffers are the original's own objects."""

    conv: nn.Module
    """Images [b, C, H, W] to activations [b, *cut_shape]."""
    fc: nn.Module
    """Activations to what the network returns."""
    cut_shape: tuple[int, ...]
    """Shape of one sample's activations at the cut, in training mode."""

    @property
    def cut_values(self) -> int:
        """Values that cross the cut for one sample (the paper's A)."""
        return prod(self.cut_shape)


class ByMode(nn.Module):
    """One graph for training and one for evaluation, where the network computes differently.

    Inception-V3, for one, has its auxiliary classifier in training only.
    """

    def __init__(self, training: nn.Module, evaluation: nn.Module) -> None:
        super().__init__()
        self.in_training, self.in_evaluation = training, evaluation

    def forward(self, inputs: Tensor) -> Any:
        """Run the graph of the current mode."""
        return (self.in_training if self.training else self.in_evaluation)(inputs)


def split(model: nn.Module, image_shape: Sequence[int]) -> Split:
    """Cut `model`, whose images have the shape `image_shape` = (C, H, W), at its classifier.

    Lazy layers get their shapes first. Forward arguments besides the images keep their defaults.

    Raises:
        InputError: no fully connected layer after the convolutions, a network that torch.fx cannot
            trace or that does not take such images, or parts that are not independent.
    """
    materialise(model, image_shape)
    with modes_restored(model):
        # A model in training may have frozen parts, whose functional dropout must stay off.
        graph = trace(model if model.training else model.train())
        code = graph.python_code("self").src
        parts = _cut_graph(model, graph, image_shape)
        graph = trace(model.eval())
        if graph.python_code("self").src != code:
            other = _cut_graph(model, graph, image_shape)
            conv, fc = ByMode(parts.conv, other.conv), ByMode(parts.fc, other.fc)
            parts = Split(conv=conv, fc=fc, cut_shape=parts.cut_shape)
    parts.conv.training = parts.fc.training = model.training  # layers keep theirs
    return parts


def _cut_graph(model: nn.Module, graph: fx.Graph, image_shape: Sequence[int]) -> Split:
    network = Network(model, graph, image_shape)
    nodes = [network.cut_node(node) for node in network.layers]
    cut = find_cut(nodes, network.name, network.outputs)
    _refuse_shared_tensors(network, cut)
    _refuse_overwritten(network, cut)
    crossing = [node for node in network.layers if node.name in cut.crossing]
    shapes = [network.crossing_shape(node) for node in crossing]
    pack = len(shapes) > 1 or shapes == [()]
    conv = _conv_graph(network, cut, shapes, pack=pack)
    fc = _fc_graph(network, cut, shapes, pack=pack)
    packed = (sum(map(prod, shapes)),) if pack else shapes[0]
    return Split(fx.GraphModule(model, conv), fx.GraphModule(model, fc), packed)


def _refuse_shared_tensors(network: Network, cut: Cut) -> None:
    """Refuse parameters and changing buffers that both parts use, since they would drift apart.

    Both parts may read a constant.
    """
    model = network.model
    names = {id(p): key for key, p in (*model.named_parameters(), *model.named_buffers())}
    overwritten = set[str]().union(*network.overwritten.values())
    uses = list(_uses(network))
    changing = {
        id(tensor)
        for node, tensor, _ in uses
        if node.op == "call_module" or isinstance(tensor, nn.Parameter) or node.name in overwritten
    }
    in_fc: dict[int, bool] = {}
    for node, tensor, user in uses:
        inside = user.op == "output" or user.name in cut.fc
        if id(tensor) in changing and in_fc.setdefault(id(tensor), inside) != inside:
            raise InputError(
                f"{network.name} cannot be separated: the convolutional and the fully "
                f"connected part share {names.get(id(tensor), node.target)}; "
                "train it with ddp or ps"
            )


def _uses(network: Network) -> Iterator[tuple[fx.Node, Tensor, fx.Node]]:
    """The nodes with parameters and buffers, each with one of them and the node that uses it."""
    for node in network.layers:
        if node.op not in ("call_module", "get_attr"):
            continue
        used = operator.attrgetter(str(node.target))(network.model)
        if isinstance(used, nn.Module):
            for tensor in chain(used.parameters(), used.buffers()):
                yield node, tensor, node
        else:
            for user in node.users:
                yield node, used, user


def _refuse_overwritten(network: Network, cut: Cut) -> None:
    """The FC part sees what crosses as the convolutional part leaves it at its end."""
    read: set[str] = set()
    for node in network.layers:
        if node.name in cut.fc:
            read.update(network.bases[source.name] for source in node.all_input_nodes)
        elif written := sorted(network.overwritten[node.name] & read):
            raise InputError(
                f"{network.name} cannot be separated: the convolutional part overwrites "
                f"{written[0]} in place ({node}) after the fully connected part has read it; give "
                "inplace=False, or train it with ddp or ps"
            )


def _conv_graph(
    network: Network, cut: Cut, shapes: Sequence[tuple[int, ...]], *, pack: bool
) -> fx.Graph:
    """The nodes outside the FC part; returns what crosses, packed into one tensor [b, values]."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    images = None
    for node in network.graph.nodes:
        if network.is_batch_size(node):
            copies[node] = graph.call_method("size", (images, 0))
        elif node.op != "output" and node.name not in cut.fc:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
            images = images or copies[node]
    crossing = [copy for node, copy in copies.items() if node.name in cut.crossing]
    if pack:
        flat = [
            graph.call_method("reshape", (value, (-1, prod(shape))))
            for value, shape in zip(crossing, shapes, strict=True)
        ]
        crossing = [graph.call_function(torch.cat, (flat, 1))]
    graph.output(crossing[0])
    return graph


def _fc_graph(
    network: Network, cut: Cut, shapes: Sequence[tuple[int, ...]], *, pack: bool
) -> fx.Graph:
    """The nodes of the FC part and the output, fed by one tensor that holds all that crosses."""
    graph = fx.Graph()
    packed = graph.placeholder("activations")
    outside = [node for node in network.layers if node.name in cut.crossing]
    copies: dict[fx.Node, fx.Node] = {outside[0]: packed}
    dtypes = [network.values[node.name].dtype for node in outside]
    start = 0
    for node, shape, dtype in zip(outside, shapes, dtypes, strict=True):
        if pack:
            part = graph.call_function(torch.narrow, (packed, 1, start, prod(shape)))
            copies[node] = graph.call_method("reshape", (part, (-1, *shape)))
            start += prod(shape)
        if len(set(dtypes)) > 1:  # torch.cat has widened them
            copies[node] = graph.call_method("to", (copies[node], dtype))
    for node in network.graph.nodes:
        if network.is_batch_size(node):
            copies[node] = graph.call_method("size", (packed, 0))
        elif node.op == "output" or node.name in cut.fc:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    return graph
