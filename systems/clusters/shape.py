"""The shape of a run: the links and the shares of cores that make this machine a cluster for it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from systems.clusters import cluster
from systems.clusters.cluster import Cluster, Device, Link
from systems.clusters.host import Host
from systems.clusters.sized import fitted
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class Impairments:
    """What every link adds to its messages, each way. The kernel's netem does it."""

    delay_s: float = 0.0
    """Seconds that every packet waits."""
    jitter_s: float = 0.0
    """How much longer or shorter some wait; the kernel draws it evenly."""
    packet_loss: float = 0.0
    """The share of packets that are lost, to be sent again."""

    def __post_init__(self) -> None:
        for name, value in (("delay-s", self.delay_s), ("jitter-s", self.jitter_s)):
            if not 0 <= value < 10:
                raise InputError(f"--{name} {value:g}: give 0 or more seconds, less than 10")
        if not 0 <= self.packet_loss < 1:
            raise InputError(
                f"--packet-loss {self.packet_loss:g}: give a share of the packets, 0 to below 1"
            )
        if self.jitter_s > self.delay_s:
            raise InputError(
                f"--jitter-s {self.jitter_s:g}: is more than the delay; give a --delay-s of at "
                "least as much"
            )

    def __bool__(self) -> bool:
        return self != UNIMPAIRED


UNIMPAIRED = Impairments()
"""Links add nothing."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A cluster with one device in a node and a node for every rank, which a shaped run is on."""

    cluster: Cluster
    impairments: Impairments = UNIMPAIRED

    @property
    def links(self) -> tuple[Link, ...]:
        """The link of every rank."""
        return self.cluster.links

    @property
    def rates_bits_per_s(self) -> tuple[float, ...]:
        """The rate of the link of every rank."""
        return tuple(link.bandwidth_bits_per_s or 0.0 for link in self.links)  # all are known

    @property
    def devices(self) -> tuple[Device, ...]:
        """The device of every rank."""
        return tuple(node.devices[0] for node in self.cluster.nodes for _ in range(node.count))

    @property
    def core_shares(self) -> tuple[float | None, ...]:
        """The share of a core that every rank is held to; None: it is not held."""
        return tuple(device.core_share for device in self.devices)

    @property
    def is_uniform(self) -> bool:
        """Whether all nodes are alike."""
        return len(set(self.links)) == len(set(self.devices)) == 1

    def __str__(self) -> str:
        rates = _each_once([f"{rate / 1e9:g}" for rate in self.rates_bits_per_s])
        text = f"{len(self.links)} nodes at {rates} Gb/s"
        if any(share is not None for share in self.core_shares):
            shares = ["all" if share is None else f"{share:g}" for share in self.core_shares]
            text += f", shares of a core {_each_once(shares)}"
        return text


def _each_once(words: Sequence[str]) -> str:
    """Write one word where all are equal, else the word of every rank."""
    return words[0] if len(set(words)) == 1 else " ".join(words)


def shape_of(name: str, world_size: int, impairments: Impairments = UNIMPAIRED) -> Shape:
    """The shape that a cluster gives a run, with a node for every rank.

    Args:
        name: a preset, or a TOML file, which `--cluster` names.

    Raises:
        InputError: another number of nodes, several devices in a node, two shares for one kind of
            device, or a link of unknown rate.
    """
    target = cluster.load(name)
    for node in target.nodes:
        if len(node.devices) > 1 or node.devices[0].count > 1:
            raise InputError(
                f"{cluster.place(target, node, name)} has several devices: a shaped run has one "
                "rank a node; give each device a node of its own"
            )
        if node.link.bandwidth_bits_per_s is None:
            raise InputError(
                f"--cluster {name}: the rate of the link of node {node.name!r} is not known; state "
                "its bandwidth_bits_per_s"
            )
    shares = {node.devices[0].kind: node.devices[0].core_share for node in target.nodes}
    for node in target.nodes:
        device = node.devices[0]
        if device.core_share != shares[device.kind]:
            raise InputError(
                f"{cluster.place(target, node, name)}: {device.kind!r} has two values of "
                "core_share; a kind of device is of one speed: give each share a kind of its own"
            )
    sized = fitted(target, world_size)
    return Shape(cluster=sized, impairments=impairments)


def as_measured(shape: Shape, ratio: float, latency_s: float, host: Host | None = None) -> Cluster:
    """The cluster of a shape with what its links really give.

    Args:
        ratio: the time of a message over its ideal time.
        latency_s: how long the smallest message takes.
        host: what a probe has found of its ranks, all of which are alike.
    """

    def measured(link: Link) -> Link:
        assert link.bandwidth_bits_per_s is not None  # of a shape
        return Link(bandwidth_bits_per_s=link.bandwidth_bits_per_s / ratio, latency_s=latency_s)

    nodes = tuple(
        dataclasses.replace(node, link=measured(node.link)) for node in shape.cluster.nodes
    )
    cluster = dataclasses.replace(shape.cluster, nodes=nodes)
    if host is None:
        return cluster
    rate = cluster.slowest_link.bandwidth_bits_per_s
    return cluster.on(dataclasses.replace(host, bandwidth_bits_per_s=rate))
