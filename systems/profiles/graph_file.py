"""Reads profiles that others have published in the `graph.txt` format of PipeDream and SparsePipe.

A file has a line for every layer, with its times in milliseconds and its sizes in bytes, and a line
for every edge, which says that the second layer reads the output of the first:

    node1 -- Conv2d(3, 64) -- forward_compute_time=1.5, backward_compute_time=3.0, \\
        activation_size=1024.0, parameter_size=256.0                    (on one line)
        node1 -- node2
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from systems.profiles.profile import LayerProfile, ModelProfile
from systems.schema import InputError

_NODE = re.compile(
    r"(?P<name>node\d+) -- (?P<operation>.+) -- forward_compute_time=(?P<forward>[\d.]+), "
    r"backward_compute_time=(?P<backward>[\d.]+), activation_size=(?P<activation>[^,]+), "
    r"parameter_size=(?P<parameter>[\d.]+)"
)
_EDGE = re.compile(r"\s+(?P<source>node\d+) -- (?P<target>node\d+)\s*$")


def read_graph(
    text: str, *, name: str, device_kind: str, batch_size: int, source: str
) -> ModelProfile:
    """The profile in the text of a `graph.txt`, which says neither model nor device nor batch size.

    Its `Input` node times the loading of data, which is no layer, and is left out.

    Args:
        text: the content of the file.
        name: the model's name.
        device_kind: the kind of device that it was measured on.
        batch_size: the samples that times and activations are for.
        source: who measured it, where.

    Raises:
        InputError: there are no layers, a line is neither a node nor an edge, or layers form a
            cycle.
    """
    nodes: dict[str, LayerProfile] = {}
    edges: list[tuple[str, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if edge := _EDGE.match(line):
            edges.append((edge["source"], edge["target"]))
        elif node := _NODE.match(line):
            nodes[node["name"]] = _layer(node)
        elif line.strip():
            raise InputError(f"graph of {name}, line {number}: neither a node nor an edge: {line}")
    layers = {n: layer for n, layer in nodes.items() if not layer.operation.startswith("Input")}
    for start, target in edges:
        if start in layers and target in layers:
            reads = (*layers[target].inputs, start)
            layers[target] = replace(layers[target], inputs=reads)
    return ModelProfile(
        name=name,
        device=device_kind,
        batch_size=batch_size,
        source=source,
        layers=tuple(_in_order(layers.values(), name)),
    )


def _layer(node: re.Match[str]) -> LayerProfile:
    """The layer in a line that describes a node."""
    sizes = re.findall(r"[\d.]+", node["activation"])  # a list where a node has several outputs
    return LayerProfile(
        name=node["name"],
        operation=node["operation"],
        forward_s=round(float(node["forward"]) / 1e3, 9),
        backward_s=round(float(node["backward"]) / 1e3, 9),
        activation_bytes=round(sum(map(float, sizes))),
        parameter_bytes=round(float(node["parameter"])),
    )


def _in_order(layers: Iterable[LayerProfile], name: str) -> list[LayerProfile]:
    """The layers in an order in which they can run: each one after those whose outputs it reads.

    Where several could be next, the one with the lowest number is: nodes are numbered as they ran.
    """
    waiting = sorted(layers, key=lambda layer: int(layer.name.removeprefix("node")))
    done: dict[str, LayerProfile] = {}
    while waiting:
        ready = next((x for x in waiting if all(i in done for i in x.inputs)), None)
        if ready is None:
            raise InputError(f"graph of {name}: a cycle among {waiting[0].name} and others")
        done[ready.name] = ready
        waiting.remove(ready)
    return list(done.values())
