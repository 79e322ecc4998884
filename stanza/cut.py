"""Where a CNN is cut: one rule, for a traced network and for a profile of one alike.

The FC part is every fully connected layer and all that depends on one. Reshapes and dropout just
before it move into it, since they cost nothing and dropout is the classifier's. The rest is the
convolutional part. What the FC part reads from the convolutional part crosses the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from systems.profile import ModelProfile
from systems.schema import InputError

Operation = Literal["convolution", "linear", "reshape", "other"]


@dataclass(frozen=True)
class CutNode:
    """One operation of a network; `inputs` are names of earlier nodes."""

    name: str
    description: str
    """What messages call it, such as "classifier.1 (Conv2d)"."""
    operation: Operation
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """The FC part's nodes, and the nodes of the convolutional part that it reads, in order."""

    fc: frozenset[str]
    crossing: tuple[str, ...]


def find_cut(nodes: Sequence[CutNode], network: str) -> Cut:
    """Cut `network`, whose nodes are given in an order in which they can run.

    Raises:
        InputError: no FC layer, no convolution, or a convolution that depends on an FC layer.
    """
    fc: dict[str, CutNode] = {}  # node -> the FC layer that it is or depends on
    for node in nodes:
        if node.operation == "linear":
            fc[node.name] = node
            continue
        layer = next((fc[name] for name in node.inputs if name in fc), None)
        if layer is not None and node.operation == "convolution":
            raise InputError(
                f"{network} cannot be separated: the convolution {node.description} comes after "
                f"the fully connected layer {layer.description}; train it with ddp or ps"
            )
        if layer is not None:
            fc[node.name] = layer
    if not fc:
        raise InputError(
            f"{network} cannot be separated: it has no fully connected layer, it ends with "
            f"{nodes[-1].description}; train it with ddp or ps"
        )
    if all(node.operation != "convolution" for node in nodes):
        first = next(iter(fc.values()))
        raise InputError(
            f"{network} cannot be separated: no convolution comes before the fully connected "
            f"layer {first.description}; train it with ddp or ps"
        )
    inside = _with_reshapes(nodes, set(fc))
    read = {name for node in nodes if node.name in inside for name in node.inputs}
    crossing = tuple(n.name for n in nodes if n.name in read and n.name not in inside)
    return Cut(fc=frozenset(inside), crossing=crossing)


def _with_reshapes(nodes: Sequence[CutNode], fc: set[str]) -> set[str]:
    """`fc` and the reshapes and dropouts that only it reads."""
    users: dict[str, list[str]] = {node.name: [] for node in nodes}
    for node in nodes:
        for name in node.inputs:
            users[name].append(node.name)
    for node in reversed(nodes):
        readers = users[node.name]
        if node.operation == "reshape" and readers and all(name in fc for name in readers):
            fc.add(node.name)
    return fc


_PREFIXES: tuple[tuple[str, Operation], ...] = (
    ("Conv", "convolution"),
    ("Linear", "linear"),
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
