"""Where a CNN is cut: one rule, for a traced network and for a profile of one alike.

The FC part is the classifier: every fully connected layer whose outputs do not become convolutional
features again, and all that depends on one. Fully connected layers inside the convolutional part
stay there: those of squeeze-and-excitation, or a 1 x 1 convolution that is written as a Linear.
Reshapes and dropout just before the FC part move into it, since they cost nothing and dropout is
the classifier's. The rest is the convolutional part. What the FC part or the network's output reads
from it crosses the network.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from systems.profiles.profile import ModelProfile
from systems.schema import InputError

Operation = Literal["convolution", "linear", "pointwise", "pooling", "reshape", "other"]
"""`pointwise`: a fully connected layer that is applied at every position of a sample. `pooling`: a
layer of a profile, which does not tell shapes, that surely reads features."""


@dataclass(frozen=True)
class CutNode:
    """One operation of a network; `inputs` are names of earlier nodes."""

    name: str
    description: str
    """What messages call it, such as "classifier.1 (Conv2d)"."""
    operation: Operation
    inputs: tuple[str, ...]
    features: bool = False
    """Whether its result has positions besides samples and channels. A profile does not tell."""


@dataclass(frozen=True)
class Cut:
    """The FC part's nodes, and the nodes of the convolutional part that it reads, in order."""

    fc: frozenset[str]
    crossing: tuple[str, ...]


def find_cut(nodes: Sequence[CutNode], network: str, outputs: Collection[str] = ()) -> Cut:
    """Cut `network`, whose nodes are given in an order in which they can run.

    Args:
        outputs: nodes that the network returns; the FC part returns them.

    Raises:
        InputError: no convolution, or no fully connected layer after the convolutions.
    """
    classifier = _classifier(nodes, network)
    if all(node.operation != "convolution" for node in nodes):
        raise InputError(
            f"{network} cannot be separated: no convolution comes before the fully connected "
            f"layer {classifier[0].description}; train it with ddp or ps"
        )
    fc = {node.name for node in classifier}
    for node in nodes:
        if not fc.isdisjoint(node.inputs):
            fc.add(node.name)
    inside = _with_reshapes(nodes, fc, outputs)
    read = {name for node in nodes if node.name in inside for name in node.inputs}
    read.update(outputs)
    crossing = tuple(n.name for n in nodes if n.name in read and n.name not in inside)
    return Cut(fc=frozenset(inside), crossing=crossing)


def _classifier(nodes: Sequence[CutNode], network: str) -> list[CutNode]:
    """The fully connected layers that are not inside the convolutional part.

    Those at every position are the classifier only where no layer is for whole samples.
    """
    layers = [node for node in nodes if node.operation in ("linear", "pointwise")]
    convolutions = [node.description for node in nodes if node.operation == "convolution"]
    if not layers:
        last = f"its last convolution is {convolutions[-1]}, and " if convolutions else ""
        raise InputError(
            f"{network} cannot be separated: it has no fully connected layer (nn.Linear), {last}"
            f"it ends with {nodes[-1].description}; train it with ddp or ps"
        )
    features = _features(nodes)
    readers = {layer.name: _feature_reader(layer, nodes, features) for layer in layers}
    outside = [layer for layer in layers if readers[layer.name] is None]
    if not outside:
        reader = readers[layers[-1].name]
        assert reader is not None
        kind = "the convolution " if reader.operation == "convolution" else ""
        raise InputError(
            f"{network} cannot be separated: it has fully connected layers only inside its "
            f"convolutional part, {kind}{reader.description} comes after {layers[-1].description}; "
            "train it with ddp or ps"
        )
    return [layer for layer in outside if layer.operation == "linear"] or outside


def _features(nodes: Sequence[CutNode]) -> set[str]:
    """Nodes that have kept positions since the images or the last convolution."""
    found: set[str] = set()
    for node in nodes:
        begins = node.operation == "convolution" or not node.inputs
        if node.features and (begins or not found.isdisjoint(node.inputs)):
            found.add(node.name)
    return found


def _feature_reader(layer: CutNode, nodes: Sequence[CutNode], features: set[str]) -> CutNode | None:
    """What makes features of the layer's outputs: a convolution that depends on them, or an
    operation that joins them with features that do not."""
    dependent = {layer.name}
    for node in nodes:
        if dependent.isdisjoint(node.inputs):
            continue
        joins = features.intersection(node.inputs) - dependent
        reads = node.operation in ("convolution", "pooling")
        if reads or (node.name in features and joins):
            return node
        dependent.add(node.name)
    return None


def _with_reshapes(nodes: Sequence[CutNode], fc: set[str], outputs: Collection[str]) -> set[str]:
    """`fc` and the reshapes and dropouts that only it and the network's output read."""
    users: dict[str, list[str]] = {node.name: [] for node in nodes}
    for node in nodes:
        for name in node.inputs:
            users[name].append(node.name)
    for node in reversed(nodes):
        readers = users[node.name]
        read = readers or node.name in outputs
        if node.operation == "reshape" and read and all(name in fc for name in readers):
            fc.add(node.name)
    return fc


_POOLINGS = ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg")
_PREFIXES: tuple[tuple[str, Operation], ...] = (
    ("Conv", "convolution"),
    ("Linear", "linear"),
    *((f"{kind}Pool{n}d", "pooling") for kind in _POOLINGS for n in (2, 3)),
    ("Dropout", "reshape"),
    ("Flatten", "reshape"),
    ("Identity", "reshape"),
    ("Size", "reshape"),
    ("View", "reshape"),
)


def operation_of(text: str) -> Operation:
    """What a profile's layer does, by how PyTorch prints it."""
    return next((kind for prefix, kind in _PREFIXES if text.startswith(prefix)), "other")


def cut_profile(profile: ModelProfile) -> Cut:
    """The cut of a profiled network, by the names of its layers."""
    nodes = [
        CutNode(
            name=layer.name,
            description=f"{layer.name} ({layer.operation})",
            operation=operation_of(layer.operation),
            inputs=layer.inputs,
        )
        for layer in profile.layers
    ]
    return find_cut(nodes, profile.name)
