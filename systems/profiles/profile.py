"""Per-layer profiles: what every layer of a model costs on one device type.

A profile is measured on this machine (`systems.profiles.measured_profile`), or read from a file
that someone measured: our JSON, or the `graph.txt` format of PipeDream and SparsePipe.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from systems import disk, schema
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """One layer on one device at the profile's batch size."""

    name: str
    operation: str
    """The layer as PyTorch prints it, such as "Linear(in_features=9216, ...)"."""
    forward_s: float
    backward_s: float
    activation_bytes: int
    """Size of the layer's output for the whole batch."""
    parameter_bytes: int
    inputs: tuple[str, ...] = ()
    """Names of the layers whose outputs this one reads."""
    fixed_forward_s: float = 0.0
    """The part of `forward_s` that does not grow with the batch; known from two batch sizes."""
    fixed_backward_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("forward_s", "backward_s", "activation_bytes", "parameter_bytes"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise InputError(f"{name} = {value:g}: layer {self.name!r} needs 0 or more")


@dataclass(frozen=True, kw_only=True)
class ModelProfile:
    """All layers of a model, in an order in which they can run."""

    name: str
    device: str
    batch_size: int
    source: str
    """Who measured this, where."""
    layers: tuple[LayerProfile, ...]

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size = {self.batch_size}: give 1 or more samples")
        if not self.layers:
            raise InputError("layers is empty; a profile needs at least one")

    @property
    def forward_s(self) -> float:
        """Forward seconds of the whole model at `batch_size`."""
        return sum(layer.forward_s for layer in self.layers)

    @property
    def backward_s(self) -> float:
        """Backward seconds of the whole model at `batch_size`."""
        return sum(layer.backward_s for layer in self.layers)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(layer.parameter_bytes for layer in self.layers)

    def at_batch_size(self, batch_size: int) -> "ModelProfile":
        """The profile scaled to another batch: linear in the samples, beside the fixed parts."""
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: give 1 or more samples")
        factor = batch_size / self.batch_size
        layers = tuple(_scaled(layer, factor) for layer in self.layers)
        return replace(self, batch_size=batch_size, layers=layers)

    def slowed(self, factor: float, why: str) -> "ModelProfile":
        """The profile of a device that is `factor` times slower; `why` joins the source."""
        layers = tuple(
            replace(
                layer,
                forward_s=layer.forward_s * factor,
                backward_s=layer.backward_s * factor,
                fixed_forward_s=layer.fixed_forward_s * factor,
                fixed_backward_s=layer.fixed_backward_s * factor,
            )
            for layer in self.layers
        )
        return replace(self, layers=layers, source=f"{self.source}; times x {factor:g}: {why}")


def _scaled(layer: LayerProfile, factor: float) -> LayerProfile:
    forward = layer.fixed_forward_s + (layer.forward_s - layer.fixed_forward_s) * factor
    backward = layer.fixed_backward_s + (layer.backward_s - layer.fixed_backward_s) * factor
    activation = round(layer.activation_bytes * factor)
    return replace(layer, forward_s=forward, backward_s=backward, activation_bytes=activation)


def with_fixed_parts(large: ModelProfile, small: ModelProfile) -> ModelProfile:
    """`large` with the fixed part of every layer's time, from a second, smaller batch size.

    A straight line through the two times; a negative intercept (noise) counts as zero.
    """
    if small.batch_size >= large.batch_size or len(small.layers) != len(large.layers):
        raise InputError("fixed parts need two profiles of one model, at two batch sizes")
    ratio = small.batch_size / large.batch_size

    def intercept(at_large: float, at_small: float) -> float:
        return min(max(0.0, (at_small - at_large * ratio) / (1 - ratio)), at_small, at_large)

    layers = tuple(
        replace(
            a,
            fixed_forward_s=intercept(a.forward_s, b.forward_s),
            fixed_backward_s=intercept(a.backward_s, b.backward_s),
        )
        for a, b in zip(large.layers, small.layers, strict=True)
    )
    return replace(large, layers=layers)


def load(path: Path) -> ModelProfile:
    """The profile in a JSON file written by `save`.

    Raises:
        InputError: no such file, or not a profile.
    """
    return schema.load(ModelProfile, path, "profile", "launch profile")


def named(name: str, shipped: Mapping[str, Path], flag: str) -> ModelProfile:
    """The profile that a flag's value names: one of those that ship, or a JSON file.

    Raises:
        InputError: neither.
    """
    if name in shipped or Path(name).suffix == ".json":
        return load(shipped.get(name, Path(name)))
    raise InputError(
        f"{flag} {name}: no measured profile of that name; "
        f"{schema.remedy(name, shipped)}, or a file made with `launch profile`"
    )


def save(profile: ModelProfile, path: Path) -> None:
    """Write `profile` as JSON, one layer a line."""
    table = schema.dump(profile)
    layers = ",\n".join("    " + schema.to_json(layer) for layer in table.pop("layers"))
    head = schema.to_json(table, indent=2).removesuffix("\n}")
    disk.write_text(path, f'{head},\n  "layers": [\n{layers}\n  ]\n}}\n')


_NODE = re.compile(
    r"(?P<name>node\d+) -- (?P<operation>.+) -- forward_compute_time=(?P<forward>[\d.]+), "
    r"backward_compute_time=(?P<backward>[\d.]+), activation_size=(?P<activation>[^,]+), "
    r"parameter_size=(?P<parameter>[\d.]+)"
)
_EDGE = re.compile(r"\s+(?P<source>node\d+) -- (?P<target>node\d+)\s*$")


def read_graph(
    text: str, *, name: str, device_kind: str, batch_size: int, source: str
) -> ModelProfile:
    """A profile in PipeDream's and SparsePipe's `graph.txt` format: milliseconds and bytes.

    Its `Input` node times the loading of data, which is no layer, and is left out.

    Raises:
        InputError: a line that is neither a node nor an edge, or a cycle.
    """
    nodes: dict[str, LayerProfile] = {}
    edges: list[tuple[str, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if edge := _EDGE.match(line):
            edges.append((edge["source"], edge["target"]))
        elif node := _NODE.match(line):
            nodes[node["name"]] = _graph_layer(node)
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
        layers=tuple(_sorted(layers.values(), name)),
    )


def _graph_layer(node: re.Match[str]) -> LayerProfile:
    sizes = re.findall(r"[\d.]+", node["activation"])  # a list where a node has several outputs
    return LayerProfile(
        name=node["name"],
        operation=node["operation"],
        forward_s=round(float(node["forward"]) / 1e3, 9),
        backward_s=round(float(node["backward"]) / 1e3, 9),
        activation_bytes=round(sum(map(float, sizes))),
        parameter_bytes=round(float(node["parameter"])),
    )


def _sorted(layers: Iterable[LayerProfile], name: str) -> list[LayerProfile]:
    """Layers after those they read; among free ones by node number, which is execution order."""
    waiting = sorted(layers, key=lambda layer: int(layer.name.removeprefix("node")))
    done: dict[str, LayerProfile] = {}
    while waiting:
        ready = next((x for x in waiting if all(i in done for i in x.inputs)), None)
        if ready is None:
            raise InputError(f"graph of {name}: a cycle among {waiting[0].name} and others")
        done[ready.name] = ready
        waiting.remove(ready)
    return list(done.values())
