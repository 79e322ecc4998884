"""A cluster as frozen data: nodes with devices, joined by links. It is read from TOML files.

    python -m launch plan stanza --model vgg16 --cluster ec2-p3-10g     # a preset
    python -m launch plan stanza --model vgg16 --cluster my.toml        # a file of your own

All rates are bits per second, all sizes bytes, all times seconds.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from systems import schema
from systems.clusters.faults import Faults
from systems.clusters.host import Host
from systems.clusters.racks import AllReduce, Racks
from systems.clusters.units import check_latency, check_rate
from systems.schema import InputError

PRESETS = Path(__file__).parent
SIMULATED_ONLY = ("racks", "all_reduce", "faults")
"""What a cluster file says for the simulator alone."""
LEAST_CORE_SHARE = 0.1
"""The kernel counts in milliseconds; a smaller part of a period of ten is no steady share."""
MOST_NODES = 2**20
"""Larger numbers of nodes are mistakes."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A full-duplex link: `bandwidth_bits_per_s` in each direction."""

    bandwidth_bits_per_s: float | None = None
    """The rate. None: it is not known, and must be measured before anything is planned with it."""
    latency_s: float = 0.0
    """How long the smallest message takes, one way."""

    def __post_init__(self) -> None:
        if self.bandwidth_bits_per_s is not None and not self.bandwidth_bits_per_s > 0:
            raise InputError(
                f"bandwidth_bits_per_s = {self.bandwidth_bits_per_s:g}: a link needs a positive "
                "rate; 10 Gb/s is 10e9"
            )
        if not self.latency_s >= 0:
            raise InputError(f"latency_s = {self.latency_s:g}: give 0 or more seconds")

    def __str__(self) -> str:
        rate = self.bandwidth_bits_per_s
        known = "unknown rate" if rate is None else f"{rate / 1e9:g} Gb/s"
        return known + (f" and {self.latency_s * 1e6:g} us" if self.latency_s else "")

    def seconds(self, size_bytes: float) -> float:
        """The seconds that this many bytes take in one direction, without latency.

        Raises:
            InputError: the rate is not known.
        """
        if self.bandwidth_bits_per_s is None:
            raise InputError(
                "bandwidth_bits_per_s of the link is not known; state it in the cluster file"
            )
        return size_bytes * 8 / self.bandwidth_bits_per_s

    def all_reduce_s(self, size_bytes: float, nodes: int) -> float:
        """The seconds of a ring all-reduce between nodes that all have this link: 2 (n - 1)
        messages follow one another, each of 1/n of the bytes. See `seconds` for errors."""
        if nodes == 1:
            return 0.0
        return self.seconds(2 * size_bytes * (nodes - 1) / nodes) + 2 * (nodes - 1) * self.latency_s

    def all_gather_s(self, size_bytes: float, nodes: int) -> float:
        """The seconds in which nodes that all have this link get the message of `size_bytes` of
        every other: n - 1 messages follow one another around a ring. See `seconds` for errors."""
        return self.seconds(size_bytes * (nodes - 1)) + (nodes - 1) * self.latency_s


@dataclass(frozen=True, kw_only=True)
class Device:
    """Something that computes, a GPU or a whole CPU; or several that are alike."""

    kind: str
    """What profiles call it, such as "V100"."""
    count: int = 1
    """How many of them the node has."""
    memory_bytes: int | None = None
    """The memory of each. None: it is not known, and no plan is refused for it."""
    core_share: float | None = None
    """The share of one core of this machine that stands for the device in a shaped run, above 0 and
    up to 1. None: as much as its rank gets. Nothing else heeds it."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"count = {self.count}: give 1 or more devices")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise InputError(f"memory_bytes = {self.memory_bytes}: give 1 or more, or leave it out")
        if self.core_share is not None and not LEAST_CORE_SHARE <= self.core_share <= 1:
            raise InputError(
                f"core_share = {self.core_share:g}: is a share of one core; give "
                f"{LEAST_CORE_SHARE:g} to 1"
            )


@dataclass(frozen=True, kw_only=True)
class Node:
    """One or more equal machines, each with its devices and one network interface."""

    name: str
    """What messages call it."""
    devices: tuple[Device, ...]
    """The devices of each machine."""
    link: Link
    """The network interface of each machine."""
    device_link: Link | None = None
    """The link between the devices inside a machine (PCIe, NVLink)."""
    count: int = 1
    """How many of these machines there are."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MOST_NODES:
            raise InputError(f"count = {self.count}: give 1 or more nodes, at most {MOST_NODES}")
        if not self.devices:
            raise InputError(f"devices of node {self.name!r} is empty; give at least one")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes on one switch that does not block, where only their own interfaces limit them; or in
    racks."""

    name: str
    """What messages and figures call it."""
    source: str
    """Where its rates and sizes come from."""
    nodes: tuple[Node, ...]
    """Its nodes; an entry may stand for several that are equal."""
    host: Host | None = None
    """The machine whose cores all nodes share, where they are ranks of one; see
    [Note: ranks that share cores]."""
    racks: Racks | None = None
    """Its racks; None: all nodes are on one switch."""
    all_reduce: AllReduce | None = None
    """How ranks sum their gradients; None: in a ring."""
    faults: Faults | None = None
    """What goes wrong on it; None: nothing."""

    def __post_init__(self) -> None:
        if not self.nodes:
            raise InputError("nodes is empty; give at least one [[nodes]]")

    @property
    def size(self) -> int:
        """The number of machines."""
        return sum(node.count for node in self.nodes)

    @property
    def links(self) -> tuple[Link, ...]:
        """The network interface of every machine, in order."""
        return tuple(node.link for node in self.nodes for _ in range(node.count))

    @property
    def slowest_link(self) -> Link:
        """The slowest network interface, for which a synchronous step waits. Its rate is None if
        that of any interface is not known."""
        if any(node.link.bandwidth_bits_per_s is None for node in self.nodes):
            return Link(latency_s=max(node.link.latency_s for node in self.nodes))
        return min((n.link for n in self.nodes), key=lambda link: link.bandwidth_bits_per_s or 0)

    @property
    def network(self) -> "Link | Host":
        """What messages cross: the slowest link, or the cores of the one machine."""
        return self.slowest_link if self.host is None else self.host

    @property
    def network_is_known(self) -> bool:
        """Whether there are figures of what messages cross."""
        return self.host is not None or self.slowest_link.bandwidth_bits_per_s is not None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of all devices, each once."""
        return tuple(dict.fromkeys(d.kind for node in self.nodes for d in node.devices))

    def with_kind(self, kind: str) -> "Cluster":
        """The same cluster with one device of that kind in every node."""
        nodes = tuple(
            dataclasses.replace(node, devices=(Device(kind=kind),)) for node in self.nodes
        )
        return dataclasses.replace(self, nodes=nodes)

    def with_size(self, size: int) -> "Cluster":
        """The same cluster with `size` machines.

        Raises:
            InputError: the machines are not alike, or there would be none.
        """
        if len(self.nodes) != 1:
            raise InputError(f"cluster {self.name!r} mixes nodes; its size cannot be changed")
        if size < 1:
            raise InputError(f"a cluster of {size} nodes; give 1 or more")
        return dataclasses.replace(self, nodes=(dataclasses.replace(self.nodes[0], count=size),))

    def with_link(self, link: Link) -> "Cluster":
        """The same cluster with every network interface replaced by `link`."""
        nodes = tuple(dataclasses.replace(node, link=link) for node in self.nodes)
        return dataclasses.replace(self, nodes=nodes)

    def on(self, host: Host) -> "Cluster":
        """The same cluster, whose nodes are ranks of one machine."""
        return dataclasses.replace(self, host=host)

    def with_devices(self, counts: Mapping[str, int]) -> "Cluster":
        """The same cluster with other numbers of its devices.

        Args:
            counts: by kind of device; a kind that is not named is left out.

        Raises:
            InputError: the cluster has several machines, or no device of a kind.
        """
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
    """The names of the clusters that ship with the testbed."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load(name: str, *, simulated: bool = False) -> Cluster:
    """Read the cluster that a user names: a preset, or a TOML file.

    Args:
        simulated: whether the simulator gets it, which alone knows racks, faults, and other
            all-reduces than rings.

    Raises:
        InputError: there is no such preset or file, the file does not describe a cluster, or it
            says what only the simulator knows.
    """
    path = _path(name)
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
    for node in cluster.nodes:
        for link in filter(None, (node.link, node.device_link)):
            if link.bandwidth_bits_per_s is not None:
                rate = link.bandwidth_bits_per_s
                check_rate(rate, f"{path}: bandwidth_bits_per_s = {rate:g}")
            check_latency(link.latency_s, f"{path}: latency_s = {link.latency_s:g}")
    for key in () if simulated else SIMULATED_ONLY:
        if getattr(cluster, key) is not None:
            raise InputError(
                f"--cluster {name}: {key}: is heeded by `testbed simulate` alone; leave it out here"
            )
    return cluster


def place(cluster: Cluster, node: Node, file: str | None = None) -> str:
    """Name a node in messages: by its cluster and name, or by its file, line and name."""
    if file is None:
        return f"cluster {cluster.name!r}: node {node.name!r}"
    heads = [
        number
        for number, line in enumerate(_path(file).read_text().splitlines(), start=1)
        if re.match(r"\s*\[\[\s*nodes\s*\]\]", line)
    ]
    index = [one.name for one in cluster.nodes].index(node.name)
    line = f", line {heads[index]}" if len(heads) == len(cluster.nodes) else ""
    return f"--cluster {file}{line}: node {node.name!r}"


def _path(name: str) -> Path:
    """The file of the preset of that name, or the file that the name is the path of."""
    return PRESETS / f"{name}.toml" if name in presets() else Path(name)


def to_toml(cluster: Cluster) -> str:
    """The cluster as TOML, which `load` reads back as an equal cluster."""
    return tomli_w.dumps(schema.dump(cluster))
