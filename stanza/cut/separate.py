"""Separates a CNN into a convolutional part and an FC part, which share the original's parameters.

    parts = separate(model, image_shape=(3, 224, 224))
    logits = parts.fc(parts.conv(images))        # the very bits of model(images), in eval mode

torch.fx traces the network's graph, and `stanza.cut.rule` says where to cut it. This works for the
networks that torch.fx can trace, that have a fully connected layer after their convolutions, and
whose two parts share no parameters and overwrite nothing of each other. Others are refused with the
reason. If several values cross the cut, they are packed into one tensor:

    conv part  -> [b, C, H, W] --reshape--+                +--narrow, reshape--> [b, C, H, W] -> FC
               -> [b, D] -----------------+--cat--[b, A]---+--narrow-----------> [b, D] ------> part
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from stanza.cut.network import Network
from stanza.cut.rule import Cut, find_cut
from stanza.cut.tracing import place_of, trace
from stanza.models.dry_run import materialise
from systems.modes import modes_restored
from systems.schema import InputError


@dataclass(frozen=True)
class Parts:
    """The two parts of a network. Their parameters and buffers are the original's own objects."""

    conv: nn.Module
    """Maps images [b, C, H, W] to activations [b, *cut_shape]."""
    fc: nn.Module
    """Maps activations to what the network returns."""
    cut_shape: tuple[int, ...]
    """The shape of one sample's activations at the cut, in training mode."""
    cut_dtype: torch.dtype = torch.float32
    """What the activations are computed in."""

    @property
    def cut_values(self) -> int:
        """The number of values that cross the cut for one sample (the paper's A)."""
        return prod(self.cut_shape)


class ByMode(nn.Module):
    """Runs one graph in training and another in evaluation.

    It is needed where a network computes differently in the two modes: Inception-V3 has an
    auxiliary classifier in training only.
    """

    def __init__(self, training: nn.Module, evaluation: nn.Module) -> None:
        super().__init__()
        self.in_training, self.in_evaluation = training, evaluation

    def forward(self, inputs: Tensor) -> Any:
        """Run the graph of the current mode."""
        return (self.in_training if self.training else self.in_evaluation)(inputs)


def separate(model: nn.Module, image_shape: Sequence[int]) -> Parts:
    """Separate `model`, whose images have the shape `image_shape` = (C, H, W), at its classifier.

    Lazy layers get their shapes first. Arguments of `forward` besides the images keep their
    defaults.

    Raises:
        InputError: torch.fx cannot trace the network, it does not take such images, it has no fully
            connected layer after its convolutions, or its parts are not independent.
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
            parts = replace(parts, conv=conv, fc=fc)
    # The parts get the model's mode; their layers keep their own.
    parts.conv.training = parts.fc.training = model.training
    return parts


def _cut_graph(model: nn.Module, graph: fx.Graph, image_shape: Sequence[int]) -> Parts:
    """Separate a model by its graph in the mode that it is in."""
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
    dtype = reduce(torch.promote_types, (network.values[node.name].dtype for node in crossing))
    return Parts(fx.GraphModule(model, conv), fx.GraphModule(model, fc), packed, dtype)


def _refuse_shared_tensors(network: Network, cut: Cut) -> None:
    """Refuse a parameter or a changing buffer that both parts use.

    The parts are on different ranks, where the two copies would drift apart. A constant may be read
    by both.
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
    sides: dict[bool, list[Tensor]] = {False: [], True: []}
    for node, tensor, user in uses:
        inside = user.op == "output" or user.name in cut.fc
        sides[inside].append(tensor)
        shared = [one for one in sides[not inside] if _overlap(one, tensor)]
        if any(id(one) in changing for one in (tensor, *shared)) and shared:
            raise InputError(
                f"{network.name} cannot be separated: the convolutional and the fully "
                f"connected part share {names.get(id(tensor), node.target)}; "
                "train it with ddp or ps"
            )


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors share memory: they are one, or parts of one storage that overlap, as
    those of `decoder.weight.data = encoder.weight.data`."""
    if one is other:
        return True
    if one.untyped_storage()._cdata != other.untyped_storage()._cdata:
        return False
    (low, high), (other_low, other_high) = map(_bytes, (one, other))
    return low < other_high and other_low < high


def _bytes(tensor: Tensor) -> tuple[int, int]:
    """The first byte of a tensor in its storage, and the one after its last."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((int(size) - 1) * int(stride) for size, stride in steps) if tensor.numel() else -1
    start, width = int(tensor.storage_offset()), tensor.element_size()
    return start * width, (start + last + 1) * width


def _uses(network: Network) -> Iterator[tuple[fx.Node, Tensor, fx.Node]]:
    """Yield every use of a parameter or buffer: the node that reads it, it, and the node's user.

    A module reads and uses its parameters itself.
    """
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
    """Refuse a network that overwrites in place what the FC part has already read.

    In the separated network the FC part runs later, and would read the new values.
    """
    read: set[str] = set()
    for node in network.layers:
        if node.name in cut.fc:
            read.update(network.bases[source.name] for source in node.all_input_nodes)
        elif written := sorted(network.overwritten[node.name] & read):
            raise InputError(
                f"{network.name} cannot be separated: the convolutional part overwrites "
                f"{written[0]} in place ({node}) after the fully connected part has read it"
                f"{place_of(node)}; give inplace=False, or train it with ddp or ps"
            )


def _conv_graph(
    network: Network, cut: Cut, shapes: Sequence[tuple[int, ...]], *, pack: bool
) -> fx.Graph:
    """Build the graph of the convolutional part, which returns what crosses the cut.

    Args:
        shapes: the shapes of one sample of the values that cross.
        pack: whether they are joined into one tensor [b, values].
    """
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
    """Build the graph of the FC part, from what crosses the cut to the network's output.

    The arguments are those of `_conv_graph`.
    """
    graph = fx.Graph()
    packed = graph.placeholder("activations")
    outside = [node for node in network.layers if node.name in cut.crossing]
    copies: dict[fx.Node, fx.Node] = {outside[0]: packed}
    dtypes = [network.values[node.name].dtype for node in outside]
    start = 0
    for node, shape, dtype in zip(outside, shapes, dtypes, strict=True):
        if pack:
            part = graph.call_function(torch.narrow, (packed, 1, start, prod(shape)))
            # A copy: kernels round differently on rows that are not next to each other in memory.
            part = graph.call_method("contiguous", (part,))
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
