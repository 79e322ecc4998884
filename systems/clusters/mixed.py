"""Clusters whose nodes differ: in the kind of their device, its memory, or their link."""

from dataclasses import dataclass

from systems.clusters import cluster
from systems.clusters.cluster import Cluster, Link
from systems.clusters.uniform import check_one_device
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A node on which one rank runs."""

    node: str
    """The name of its entry in the cluster."""
    kind: str
    """The kind of its device."""
    memory_bytes: int | None
    """The memory of its device. None: it is not known."""
    link: Link
    """Its network interface."""


def seats_of(target: Cluster) -> tuple[Seat, ...]:
    """The nodes of a cluster in the order of its file, each with one device."""
    return tuple(
        Seat(
            node=node.name,
            kind=node.devices[0].kind,
            memory_bytes=node.devices[0].memory_bytes,
            link=node.link,
        )
        for node in target.nodes
        for _ in range(node.count)
    )


def is_mixed(target: Cluster) -> bool:
    """Whether some nodes of a cluster have other devices or links than the rest."""
    return len({(node.devices, node.link) for node in target.nodes}) > 1


def mixed_cluster(name: str, world_size: int) -> Cluster:
    """The mixed cluster that `--cluster` names, which has a node with one device for every rank.

    Raises:
        InputError: several devices in a node, another number of nodes, or a link of unknown rate.
    """
    target = cluster.load(name)
    for node in target.nodes:
        check_one_device(target, node, name)
        if node.link.bandwidth_bits_per_s is None:
            raise InputError(
                f"{cluster.place(target, node, name)} has a link of unknown rate; state its "
                "bandwidth_bits_per_s"
            )
    if target.size != world_size:
        raise InputError(
            f"--world-size {world_size}: cluster {target.name} mixes {target.size} nodes; give "
            f"{target.size}, or another --cluster"
        )
    return target
