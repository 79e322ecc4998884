"""A cluster: nodes with devices, joined by links. Frozen data, TOML in and out, presets.

    python -m launch plan stanza --model vgg16 --cluster ec2-p3-10g     # a preset
    python -m launch plan stanza --model vgg16 --cluster my.toml        # a file of your own

All rates are bits per second, all sizes bytes, all times seconds.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from systems import schema
from systems.schema import InputError

PRESETS = Path(__file__).parent / "clusters"


@dataclass(frozen=True, kw_only=True)
class Link:
    """A full-duplex link: `bandwidth_bits_per_s` in each direction."""

    bandwidth_bits_per_s: float | None = None
    """None: not known, to be measured before anything is planned on it."""
    latency_s: float = 0.0
    """One way, for the smallest message."""

    def __post_init__(self) -> None:
        if self.bandwidth_bits_per_s is not None and not self.bandwidth_bits_per_s > 0:
            raise InputError(
                f"bandwidth_bits_per_s = {self.bandwidth_bits_per_s:g}: a link needs a positive "
                "rate; 10 Gb/s is 10e9"
            )
        if not self.latency_s >= 0:
            raise InputError(f"latency_s = {self.latency_s:g}: give 0 or more seconds")

    def seconds(self, size_bytes: float) -> float:
        """How long `size_bytes` take in one direction, without latency."""
        if self.bandwidth_bits_per_s is None:
            raise InputError(
                "bandwidth_bits_per_s of the link is not known; state it in the cluster file"
            )
        return size_bytes * 8 / self.bandwidth_bits_per_s


@dataclass(frozen=True, kw_only=True)
class Device:
    """Something that computes: a GPU, or a CPU as a whole."""

    kind: str
    """The name that profiles are taken under, such as "V100"."""
    count: int = 1
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count = {self.count}: give 1 or more devices")


@dataclass(frozen=True, kw_only=True)
class Node:
    """`count` equal machines, each with its devices and one network interface."""

    name: str
    devices: tuple[Device, ...]
    link: Link
    """The network interface."""
    device_link: Link | None = None
    """Between the devices inside the node (PCIe, NVLink)."""
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count = {self.count}: give 1 or more nodes")
        if not self.devices:
            raise InputError(f"devices of node {self.name!r} is empty; give at least one")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Groups of nodes on one non-blocking switch."""

    name: str
    source: str
    """Where the figures come from."""
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise InputError("nodes is empty; give at least one [[nodes]]")

    @property
    def size(self) -> int:
        """Number of nodes."""
        return sum(node.count for node in self.nodes)

    @property
    def links(self) -> tuple[Link, ...]:
        """The network interface of every node, in order."""
        return tuple(node.link for node in self.nodes for _ in range(node.count))

    @property
    def slowest_link(self) -> Link:
        """The network interface that a synchronous step waits for."""
        if any(node.link.bandwidth_bits_per_s is None for node in self.nodes):
            return Link(latency_s=max(node.link.latency_s for node in self.nodes))
        return min((n.link for n in self.nodes), key=lambda link: link.bandwidth_bits_per_s or 0)

    def with_size(self, size: int) -> "Cluster":
        """The same cluster with `size` nodes; only where all nodes are alike."""
        if len(self.nodes) != 1:
            raise InputError(f"cluster {self.name!r} mixes nodes; its size cannot be changed")
        if size < 1:
            raise InputError(f"a cluster of {size} nodes; give 1 or more")
        return dataclasses.replace(self, nodes=(dataclasses.replace(self.nodes[0], count=size),))

    def with_link(self, link: Link) -> "Cluster":
        """The same cluster with every network interface replaced by `link`."""
        nodes = tuple(dataclasses.replace(node, link=link) for node in self.nodes)
        return dataclasses.replace(self, nodes=nodes)

    def with_devices(self, counts: Mapping[str, int]) -> "Cluster":
        """The same cluster with other numbers of its devices, 0 of those not named; only where
        there is one node."""
        known = {device.kind: device for device in self.nodes[0].devices}
        if self.size != 1:
            raise InputError(f"cluster {self.name!r} has several nodes; its devices cannot be set")
        for kind in counts:
            if kind not in known:
                raise InputError(
                    f"cluster {self.name!r} has no {kind}; {schema.remedy(kind, known)}"
                )
        devices = tuple(
            dataclasses.replace(known[kind], count=count) for kind, count in counts.items() if count
        )
        return dataclasses.replace(
            self, nodes=(dataclasses.replace(self.nodes[0], devices=devices),)
        )

    def with_rate(self, bandwidth_bits_per_s: float) -> "Cluster":
        """The same cluster with that rate for every link, between nodes and inside them."""

        def changed(link: Link) -> Link:
            return dataclasses.replace(link, bandwidth_bits_per_s=bandwidth_bits_per_s)

        nodes = tuple(
            dataclasses.replace(
                node,
                link=changed(node.link),
                device_link=node.device_link and changed(node.device_link),
            )
            for node in self.nodes
        )
        return dataclasses.replace(self, nodes=nodes)


def presets() -> list[str]:
    """Names of the clusters that ship with the testbed."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load(name: str) -> Cluster:
    """The preset `name`, or the cluster in the TOML file `name`.

    Raises:
        InputError: no such preset or file, or a file that does not describe a cluster.
    """
    path = PRESETS / f"{name}.toml" if name in presets() else Path(name)
    if not path.is_file():
        raise InputError(
            f"--cluster {name}: neither a preset nor a file; {schema.remedy(name, presets())}"
        )
    cluster = schema.load_toml(Cluster, path)
    names = [node.name for node in cluster.nodes]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(
            f"{path}: nodes: {twice[0]!r} is there twice; give each [[nodes]] a name of its own, "
            "or one of them a larger count"
        )
    if any(link.bandwidth_bits_per_s == float("inf") for link in cluster.links):
        raise InputError(f"{path}: bandwidth_bits_per_s = inf: no link is that fast; give its rate")
    return cluster


def to_toml(cluster: Cluster) -> str:
    """TOML that `load` reads back as an equal cluster."""
    return tomli_w.dumps(schema.dump(cluster))
