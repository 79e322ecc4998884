"""Cut any CNN in two: a convolutional part and an FC part that share the original's parameters.

    parts = split(model, image_shape=(3, 224, 224))
    logits = parts.fc(parts.conv(images))        # the very bits of model(images), in eval mode

The network's graph is traced with torch.fx and cut by the rule of `stanza.cut`.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from stanza.cut import Cut, CutNode, Operation, find_cut, operation_of
from systems.emulated import EmulatedLayer
from systems.modes import modes_restored
from systems.schema import InputError

_RESHAPES = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
_RESHAPE_METHODS = {"view", "reshape", "flatten", "size", "contiguous", "squeeze"}
_RESHAPE_FUNCTIONS = {
    torch.flatten,
    torch.reshape,
    torch.squeeze,
    F.dropout,
    operator.getitem,
    getattr,
}


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
    """Cut `model`, whose images have the shape `image_shape` = (C, H, W).

    Raises:
        InputError: no FC layer, a convolution after one, or a network that torch.fx cannot trace.
    """
    name = type(model).__name__
    with modes_restored(model):
        # A model in training may have frozen parts, whose functional dropout must stay off.
        training = _cut_graph(model if model.training else model.train(), name, image_shape)
        evaluation = _cut_graph(model.eval(), name, image_shape)
    if training.code == evaluation.code:
        return Split(conv=training.conv, fc=training.fc, cut_shape=training.cut_shape)
    conv, fc = ByMode(training.conv, evaluation.conv), ByMode(training.fc, evaluation.fc)
    conv.training = fc.training = model.training  # layers keep theirs: some may be frozen
    return Split(conv=conv, fc=fc, cut_shape=training.cut_shape)


@dataclass(frozen=True)
class _Parts:
    conv: fx.GraphModule
    fc: fx.GraphModule
    cut_shape: tuple[int, ...]

    @property
    def code(self) -> tuple[str, str]:
        return self.conv.code, self.fc.code


def _cut_graph(model: nn.Module, name: str, image_shape: Sequence[int]) -> _Parts:
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # fx raises whatever the network's own code raises on its proxies
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{name} cannot be separated: torch.fx cannot trace it ({reason}); "
            "train it with ddp or ps"
        ) from error
    # Sizes that nobody reads, as in `samples, channels, height, width = x.shape`.
    graph.eliminate_dead_code(lambda node: _operation(node, model) != "reshape")
    layers = [node for node in graph.nodes if node.op != "output" and not _is_batch_size(node)]
    cut = find_cut([_cut_node(node, model) for node in layers], name)
    _refuse_shared_parameters(layers, cut, model, name)
    if any(node.op == "placeholder" for node in layers if node.name in cut.crossing):
        raise InputError(
            f"{name} cannot be separated: its fully connected part reads the images themselves; "
            "train it with ddp or ps"
        )
    shapes = _crossing_shapes(model, graph, cut, image_shape)
    conv = _conv_graph(graph, cut, pack=True)
    fc = _fc_graph(graph, cut, shapes)
    packed = shapes[0] if len(shapes) == 1 else (sum(map(prod, shapes)),)
    return _Parts(fx.GraphModule(model, conv), fx.GraphModule(model, fc), packed)


class _Tracer(fx.Tracer):
    """Emulated layers are leaves, as torch's own are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, EmulatedLayer) or super().is_leaf_module(m, module_qualified_name)


def _cut_node(node: fx.Node, model: nn.Module) -> CutNode:
    kind = str(getattr(node.target, "__name__", node.target))
    if node.op == "call_module":
        kind = f"{node.target} ({type(model.get_submodule(str(node.target))).__name__})"
    inputs = tuple(s.name for s in node.all_input_nodes if not _is_batch_size(s))
    return CutNode(node.name, kind, _operation(node, model), inputs)


def _is_batch_size(node: fx.Node) -> bool:
    """`images.size(0)`, `images.size()[0]` or `images.shape[0]`; both parts know it."""
    match (node.target, *node.args):
        case (
            ("size", fx.Node(op="placeholder"), 0)
            | (operator.getitem, fx.Node(target="size", args=(fx.Node(op="placeholder"),)), 0)
            | (operator.getitem, fx.Node(args=(fx.Node(op="placeholder"), "shape")), 0)
        ):
            return True
    return False


def is_size(node: fx.Node) -> bool:
    """A tensor's sizes, one of them, or what is computed from nothing else: `channels * 16`."""
    if node.target == "size" or (node.target is getattr and node.args[1] == "shape"):
        return True
    sources = node.all_input_nodes
    return node.op == "call_function" and bool(sources) and all(map(is_size, sources))


def _operation(node: fx.Node, model: nn.Module) -> Operation:
    if node.op == "get_attr":
        return "reshape"  # a parameter belongs to the part that reads it
    if node.op == "call_method":
        return "reshape" if node.target in _RESHAPE_METHODS else "other"
    if node.op == "call_function" and not is_size(node):
        in_place = bool(node.kwargs.get("inplace"))
        return "other" if in_place else _function_operation(node.target)
    if node.op != "call_module":
        return "reshape" if is_size(node) else "other"
    module = model.get_submodule(str(node.target))
    if isinstance(module, EmulatedLayer):
        return operation_of(module.operation)
    if isinstance(module, nn.Linear | nn.Bilinear):
        return "linear"
    if isinstance(module, _ConvNd):
        return "convolution"
    # A dropout that overwrites what crosses the cut cannot begin the FC part.
    in_place = bool(getattr(module, "inplace", False))
    return "reshape" if isinstance(module, _RESHAPES) and not in_place else "other"


def _function_operation(function: Any) -> Operation:
    if function is F.linear:
        return "linear"
    if getattr(function, "__name__", "").startswith("conv"):
        return "convolution"
    return "reshape" if function in _RESHAPE_FUNCTIONS else "other"


def _refuse_shared_parameters(
    layers: Sequence[fx.Node], cut: Cut, model: nn.Module, name: str
) -> None:
    """Parameters in both parts would be trained in two places, and drift apart."""
    names = {id(p): key for key, p in (*model.named_parameters(), *model.named_buffers())}
    in_fc: dict[int, bool] = {}
    for node in layers:
        if node.op not in ("call_module", "get_attr"):
            continue
        used = operator.attrgetter(str(node.target))(model)
        tensors = used.parameters() if isinstance(used, nn.Module) else (used,)
        users = (node,) if isinstance(used, nn.Module) else tuple(node.users)
        for tensor, user in product(tensors, users):
            if in_fc.setdefault(id(tensor), user.name in cut.fc) != (user.name in cut.fc):
                raise InputError(
                    f"{name} cannot be separated: the convolutional and the fully connected part "
                    f"share {names.get(id(tensor), node.target)}; train it with ddp or ps"
                )


def _crossing_shapes(
    model: nn.Module, graph: fx.Graph, cut: Cut, image_shape: Sequence[int]
) -> list[tuple[int, ...]]:
    """Shape of one sample of every value that crosses, from a run on the meta device."""
    conv = fx.GraphModule(model, _conv_graph(graph, cut, pack=False))
    tensors = (*conv.named_parameters(), *conv.named_buffers())
    meta = {key: value.detach().to("meta") for key, value in tensors}
    images = torch.empty(2, *image_shape, device="meta")  # batch norm wants more than one sample
    try:
        with torch.no_grad():
            values = torch.func.functional_call(conv, meta, (images,))
    except RuntimeError as error:
        shape = "x".join(map(str, image_shape))
        raise InputError(
            f"{type(model).__name__} does not take images of {shape}: "
            f"{str(error).splitlines()[0]}; check the image shape"
        ) from error
    for value, node in zip(values, cut.crossing, strict=True):
        if not isinstance(value, Tensor):
            raise InputError(
                f"{type(model).__name__} cannot be separated: its fully connected part reads "
                f"{node}, which is no tensor, from the convolutional part; train it with ddp or ps"
            )
    return [tuple(value.shape[1:]) for value in values]


def _conv_graph(original: fx.Graph, cut: Cut, *, pack: bool) -> fx.Graph:
    """The nodes outside the FC part; returns what crosses, a tuple or packed into one tensor."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in original.nodes:
        if node.op != "output" and node.name not in cut.fc:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    crossing = [copy for node, copy in copies.items() if node.name in cut.crossing]
    if not pack:
        graph.output(tuple(crossing))
        return graph
    if len(crossing) > 1:
        flat = [graph.call_function(torch.flatten, (value, 1)) for value in crossing]
        crossing = [graph.call_function(torch.cat, (flat, 1))]
    graph.output(crossing[0])
    return graph


def _fc_graph(original: fx.Graph, cut: Cut, shapes: Sequence[tuple[int, ...]]) -> fx.Graph:
    """The nodes of the FC part, fed by one tensor that holds all that crosses."""
    graph = fx.Graph()
    packed = graph.placeholder("activations")
    outside = [node for node in original.nodes if node.name in cut.crossing]
    copies: dict[fx.Node, fx.Node] = {outside[0]: packed}
    if len(outside) > 1:
        start = 0
        for node, shape in zip(outside, shapes, strict=True):
            part = graph.call_function(torch.narrow, (packed, 1, start, prod(shape)))
            copies[node] = graph.call_method("unflatten", (part, 1, shape))
            start += prod(shape)
    for node in original.nodes:
        if _is_batch_size(node):
            copies[node] = graph.call_method("size", (packed, 0))
        elif node.op == "output" or node.name in cut.fc:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    return graph
