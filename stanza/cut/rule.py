"""The rule by which a CNN is cut, the same for a traced network and for a network's profile.

The FC part is the classifier: the fully connected layers whose outputs do not become convolutional
features again, and everything that depends on one of them.

    conv -> relu -> pool -> flatten -> dropout -> linear -> relu -> linear -> output
    |------------------|   |-----------------------------------------------------|
    convolutional part     FC part

Fully connected layers inside the convolutional part stay there: those of squeeze-and-excitation,
which scale the channels, or a 1 x 1 convolution that is written as a Linear. Reshapes and dropouts
just before the classifier belong to the FC part, because they cost nothing and dropout is the
classifier's. All the rest is the convolutional part. What the FC part or the network's output reads
from the convolutional part crosses the cut.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from systems.profiles.profile import ModelProfile
from systems.schema import InputError

Operation = Literal["convolution", "linear", "pointwise", "pooling", "reshape", "other"]
"""What a node does, as far as the rule asks. `pointwise` is a fully connected layer that is applied
at every position of a sample. `pooling` is a layer of a profile which surely reads features; a
profile does not tell shapes."""


@dataclass(frozen=True)
class CutNode:
    """One operation of a network."""

    name: str
    description: str
    """The operation's name in errors, such as "classifier.1 (Conv2d)"."""
    operation: Operation
    inputs: tuple[str, ...]
    """The names of the nodes whose results it reads."""
    features: bool = False
    """Whether its result has positions besides samples and channels. A profile does not tell, so
    that this is always False."""


@dataclass(frozen=True)
class Cut:
    """Where a network is cut."""

    fc: frozenset[str]
    """The names of the FC part's nodes."""
    crossing: tuple[str, ...]
    """The names of the convolutional part's nodes whose results cross the cut, in order."""


def find_cut(nodes: Sequence[CutNode], network: str, outputs: Collection[str] = ()) -> Cut:
    """Find where a network is cut.

    Args:
        nodes: the network's operations, in an order in which they can run.
        network: its name, for errors.
        outputs: the names of the nodes that the network returns. The FC part will return them.

    Raises:
        InputError: the network has no convolution, or no fully connected layer after its
            convolutions.
    """
    # The FC part: the classifier's fully connected layers, and all that depends on one.
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
    # What it reads from the other nodes crosses the cut.
    read = {name for node in nodes if node.name in inside for name in node.inputs}
    read.update(outputs)
    crossing = tuple(n.name for n in nodes if n.name in read and n.name not in inside)
    return Cut(fc=frozenset(inside), crossing=crossing)


def _classifier(nodes: Sequence[CutNode], network: str) -> list[CutNode]:
    """The fully connected layers that are not inside the convolutional part.

    Layers that are applied at every position only count if no layer is applied to whole samples.

    Raises:
        InputError: there is none.
    """
    layers = [node for node in nodes if node.operation in ("linear", "pointwise")]
    convolutions = [node.description for node in nodes if node.operation == "convolution"]
    if not layers:
        last = f"its last convolution is {convolutions[-1]}, and " if convolutions else ""
        raise InputError(
            f"{network} cannot be separated: it has no fully connected layer (nn.Linear), {last}"
            f"it ends with {nodes[-1].description}; train it with ddp or ps"
        )
    # A layer is inside the convolutional part if something makes features of its outputs again.
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
    """The names of the nodes whose results are features.

    Features have had positions all the way from the images or from a convolution. A vector that is
    reshaped to have positions is none.
    """
    features: set[str] = set()
    for node in nodes:
        begins = node.operation == "convolution" or not node.inputs
        if node.features and (begins or not features.isdisjoint(node.inputs)):
            features.add(node.name)
    return features


def _feature_reader(layer: CutNode, nodes: Sequence[CutNode], features: set[str]) -> CutNode | None:
    """The first node that makes features of a fully connected layer's outputs, if there is one.

    It is a convolution or a pooling that depends on them, or an operation that joins them with
    features that do not depend on them, as squeeze-and-excitation does.
    """
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
    """Add to the FC part the reshapes and dropouts that only it and the network's output read."""
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
    """Find out what a layer of a profile does, by its name in PyTorch, such as "Conv2d(3, 64,
    ...)"."""
    return next((kind for prefix, kind in _PREFIXES if text.startswith(prefix)), "other")


def cut_profile(profile: ModelProfile) -> Cut:
    """Find where a profiled network is cut. The cut's names are those of the profile's layers."""
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
