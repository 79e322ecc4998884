"""Finds out what each node of a traced network does, and what it returns for images of a shape.

The network is run twice without computing (on the meta device), with 5 and with 11 images. What
differs between the two runs depends on the number of images.
"""

import operator
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from stanza.cut.rule import CutNode, Operation, operation_of
from stanza.cut.tracing import place_of
from stanza.models.dry_run import SAMPLES, dry_run
from systems.profiles.emulated import EmulatedLayer
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


_MORE_SAMPLES = 2 * SAMPLES + 1
"""The number of images in the second dry run. The first has SAMPLES."""


class Network:
    """A traced network, with what each of its nodes returns for SAMPLES images.

    Attributes:
        layers: the nodes that compute something, in order. The number of images is none of them.
        outputs: the names of the nodes that the network returns.
        from_images: the nodes that depend on the images.
        values: what each node returns in the first dry run, by name.
        bases: the node whose memory each node's result shares, by name.
        overwritten: the bases that each node changes in place, by name.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, image_shape: Sequence[int]) -> None:
        """Run `graph` dry, and write constant sizes into it as numbers.

        Neither part then needs a tensor of the other to know a size.

        Raises:
            InputError: the network does not run on images of this shape.
        """
        self.model, self.graph, self.name = model, graph, type(model).__name__
        self._drop_unread()
        recorded = _Recorded(fx.GraphModule(model, graph))
        dry_run(recorded, image_shape, self.name, samples=_MORE_SAMPLES)
        self._values_of_more = recorded.values
        recorded = _Recorded(fx.GraphModule(model, graph))
        dry_run(recorded, image_shape, self.name)
        self.values, self.bases = recorded.values, recorded.bases
        self.overwritten = recorded.overwritten
        self._write_known_sizes()
        self.from_images: set[fx.Node] = set()
        for node in graph.nodes:
            if node.op == "placeholder" or not self.from_images.isdisjoint(node.all_input_nodes):
                self.from_images.add(node)
        nodes = [node for node in graph.nodes if not self.is_batch_size(node)]
        self.layers = [node for node in nodes if node.op != "output"]
        read = nodes[-1].all_input_nodes
        self.outputs = {node.name for node in read if not self.is_batch_size(node)}

    def _drop_unread(self) -> None:
        """Remove sizes that nobody reads, as in `samples, channels, height, width = x.shape`."""
        self.graph.eliminate_dead_code(lambda node: _operation(node, self.model) != "reshape")

    def _write_known_sizes(self) -> None:
        """Replace sizes that are the same for any number of images by numbers."""
        for node in self.graph.nodes:
            size, of_more = self._size(node)
            if size is None or size != of_more:
                continue
            _replace(node, tuple(size) if isinstance(size, torch.Size) else size)
        self._drop_unread()

    def is_batch_size(self, node: fx.Node) -> bool:
        """Whether a node is the number of images, as `x.shape[0]` is. Both parts know it."""
        return self._size(node) == (SAMPLES, _MORE_SAMPLES)

    def _size(self, node: fx.Node) -> tuple[Any, Any]:
        """The values in the two dry runs of a node that is a size or sizes, or else None twice."""
        values = self.values[node.name], self._values_of_more[node.name]
        kinds = (int, float, torch.Size)
        return values if is_size(node) and isinstance(values[0], kinds) else (None, None)

    def cut_node(self, node: fx.Node) -> CutNode:
        """Describe a node as the rule of the cut needs to know it."""
        kind = str(getattr(node.target, "__name__", node.target))
        if node.op == "call_module":
            kind = f"{node.target} ({type(self.model.get_submodule(str(node.target))).__name__})"
        inputs = tuple(s.name for s in node.all_input_nodes if not self.is_batch_size(s))
        features = node in self.from_images and _has_positions(self.values[node.name])
        return CutNode(node.name, kind, self._operation(node), inputs, features)

    def _operation(self, node: fx.Node) -> Operation:
        """Find out what a node does, by its code and by the shapes of what it reads and returns."""
        if node not in self.from_images:
            return "reshape"  # computed from parameters alone: belongs to the part that reads it
        operation = _operation(node, self.model)
        if operation == "linear":
            inputs = self.values[node.all_input_nodes[0].name]
            return "pointwise" if prod(inputs.shape[:-1]) > SAMPLES else "linear"
        if operation == "reshape" and isinstance(self.values[node.name], Tensor):
            source = self.values[node.all_input_nodes[0].name]
            # A node that takes a part of its input, as `tokens[:, 0]`, is no mere reshape: it stays
            # in the convolutional part, so that only this part crosses.
            whole = isinstance(source, Tensor) and source.numel() == self.values[node.name].numel()
            return "reshape" if whole and not self.overwritten[node.name] else "other"
        return operation

    def crossing_shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of one sample of a node's result, which crosses the cut.

        Raises:
            InputError: it cannot cross, because it is no floating-point tensor with a row for every
                sample.
        """
        value, problem = self.values[node.name], ""
        more = self._values_of_more[node.name]
        if node.op == "placeholder":
            problem = "the images themselves"
        elif not isinstance(value, Tensor):
            problem = f"{node}, which is no tensor{place_of(node)}, from the convolutional part"
        elif value.shape[:1] != (SAMPLES,) or more.shape != (_MORE_SAMPLES, *value.shape[1:]):
            problem = (
                f"{node}, which has no row for every sample{place_of(node)}, from the "
                "convolutional part"
            )
        elif not value.is_floating_point():
            problem = (
                f"{node}, of {value.dtype}, which has no gradient{place_of(node)}, from the "
                "convolutional part"
            )
        if problem:
            reader = "output" if node.name in self.outputs else "fully connected part"
            raise InputError(
                f"{self.name} cannot be separated: its {reader} reads {problem}; "
                "train it with ddp or ps"
            )
        return tuple(value.shape[1:])


def _has_positions(value: Any) -> bool:
    """Whether a value has more than one vector for every sample."""
    return isinstance(value, Tensor) and (value.dim() > 2 or _rows(value) > SAMPLES)


def _rows(value: Tensor) -> int:
    """The length of a tensor's first dimension; 0 if it has none."""
    return len(value) if value.dim() else 0


class _Recorded(nn.Module):
    """Runs a traced network and notes, by each node's name, what the node does."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__()
        self.network, self.training = network, network.training
        self.values: dict[str, Any] = {}
        """What each node returns. Tensors are on the meta device."""
        self.bases: dict[str, str] = {}
        """The earliest node whose memory each node's result shares: itself, if it is no view."""
        self.overwritten: dict[str, set[str]] = {}
        """The bases of the inputs that each node changes in place."""

    def forward(self, images: Tensor) -> None:
        """Run the network on images [b, C, H, W]."""
        recorded = self

        class Recorder(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                """Run a node, and note what it has done with its inputs."""
                inputs = {source.name: self.env[source] for source in n.all_input_nodes}
                versions = {name: _versions(value) for name, value in inputs.items()}
                value = super().run_node(n)
                recorded.note(n.name, value, inputs, versions)
                return value

        with torch.inference_mode(False):  # in inference mode PyTorch counts no changes
            Recorder(self.network).run(images.clone())

    def note(
        self, name: str, value: Any, inputs: dict[str, Any], versions: dict[str, list[int]]
    ) -> None:
        """Note what a node has done. Its inputs had these versions before it ran."""
        memory = _memory(value)
        shared = (self.bases[source] for source, one in inputs.items() if _memory(one) & memory)
        self.bases[name] = next(shared, name)
        self.overwritten[name] = {
            self.bases[source]
            for source, one in inputs.items()
            if _versions(one) != versions[source]
        }
        self.values[name] = value.detach().to("meta") if isinstance(value, Tensor) else value


def _strided(value: Any) -> list[Tensor]:
    """The tensors in a value that have ordinary, strided memory."""
    leaves = tree_leaves(value)
    return [one for one in leaves if isinstance(one, Tensor) and one.layout == torch.strided]


def _versions(value: Any) -> list[int]:
    """Count how often each tensor in a value, or a view of it, has been changed in place so far."""
    return [tensor._version for tensor in _strided(value) if not tensor.is_inference()]


def _memory(value: Any) -> set[int]:
    """The identities of the storages in which a value lies. The meta device has them too."""
    return {tensor.untyped_storage()._cdata for tensor in _strided(value)}


def _replace(node: fx.Node, value: Any) -> None:
    """Write `value` into all nodes that read `node`."""

    def replaced(source: fx.Node) -> Any:
        return value if source is node else source

    for user in tuple(node.users):
        user.args, user.kwargs = fx.map_arg(user.args, replaced), fx.map_arg(user.kwargs, replaced)


def is_size(node: fx.Node) -> bool:
    """Whether a node is a tensor's sizes, one of them, or computed from sizes alone."""
    if node.target == "size" or (node.target is getattr and node.args[1] == "shape"):
        return True
    sources = node.all_input_nodes
    return node.op == "call_function" and bool(sources) and all(map(is_size, sources))


def _operation(node: fx.Node, model: nn.Module) -> Operation:
    """Find out what a node does, by its code alone."""
    if node.op == "get_attr":
        return "reshape"
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
    # A dropout in place cannot begin the FC part: it would overwrite what crosses the cut.
    in_place = bool(getattr(module, "inplace", False))
    return "reshape" if isinstance(module, _RESHAPES) and not in_place else "other"


def _function_operation(function: Any) -> Operation:
    """Find out what a node does that calls this function."""
    if function is F.linear:
        return "linear"
    if getattr(function, "__name__", "").startswith("conv"):
        return "convolution"
    return "reshape" if function in _RESHAPE_FUNCTIONS else "other"
