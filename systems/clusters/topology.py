"""Where ranks are in a cluster, and which links lie between them.

[Note: a path of links]
Every device is a rank. Links are full-duplex, so each is two interfaces of `systems.fair_links`:

    device  --port-->  node  --out-->  rack  --up-->    (core)    --down-->  rack  --in-->  node ...

- Devices of one node talk through their ports, which a switch joins (NVLink, PCIe). What leaves the
  node passes the port too, and then the network interface, which all devices of the node share.
- Nodes of one rack are joined by a switch that does not block. What leaves the rack passes its
  uplink. Its rate is that of all interfaces of the rack, divided by the oversubscription.
- A node with one device has no ports, and a cluster of one rack has no uplinks.

The latency of a message is that of the port's link inside a node, and that of the slower of the two
interfaces between nodes, with that of the racks on top where it changes the rack.
"""

import dataclasses
from dataclasses import dataclass

from systems.clusters.cluster import Cluster, Link, Node
from systems.clusters.faults import NONE, Faults
from systems.clusters.racks import AllReduce
from systems.schema import InputError

Interface = tuple[int, str]
"""One direction of a link: of a rank's port, a node's interface, a rack's uplink."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """See [Note: a path of links] above. Ranks, nodes and racks are numbers from 0."""

    node_of: tuple[int, ...]
    """By rank, its node."""
    links: tuple[Link, ...]
    """By node, its network interface; all rates are known."""
    ports: tuple[Link | None, ...]
    """By node, the port of each of its devices; None for a node of one device."""
    rack_of: tuple[int, ...]
    """By node, its rack."""
    uplinks: tuple[Link, ...]
    """By rack; empty if there is only one."""
    all_reduce: AllReduce = "ring"
    """How ranks sum their gradients."""
    faults: Faults = NONE

    def __post_init__(self) -> None:
        self.faults.check(len(self.node_of), len(self.links), len(self.uplinks))

    @property
    def latency_s(self) -> float:
        """The largest latency of an interface or an uplink; a message has that of its path."""
        return max(link.latency_s for link in (*self.links, *self.uplinks))

    def path(self, source: int, target: int) -> tuple[Interface, ...]:
        """List the interfaces that a message passes from one rank to another."""
        nodes = self.node_of[source], self.node_of[target]
        racks = self.rack_of[nodes[0]], self.rack_of[nodes[1]]
        path: list[Interface] = []
        if self.ports[nodes[0]] is not None:
            path.append((source, "port out"))
        if nodes[0] != nodes[1]:
            path.append((nodes[0], "out"))
            if racks[0] != racks[1]:
                path += [(racks[0], "up"), (racks[1], "down")]
            path.append((nodes[1], "in"))
        if self.ports[nodes[1]] is not None:
            path.append((target, "port in"))
        return tuple(path)

    def path_latency_s(self, source: int, target: int) -> float:
        """The latency of a message from one rank to another."""
        nodes = self.node_of[source], self.node_of[target]
        port = self.ports[nodes[0]]
        if nodes[0] == nodes[1]:
            return 0.0 if port is None else port.latency_s
        return self.between_s(*nodes)

    def between_s(self, source: int, target: int) -> float:
        """The latency of a message from one node to another."""
        latency_s = max(self.links[source].latency_s, self.links[target].latency_s)
        racks = self.rack_of[source], self.rack_of[target]
        if racks[0] != racks[1]:
            latency_s += max(self.uplinks[rack].latency_s for rack in racks)
        return latency_s

    def link_of(self, interface: Interface) -> Link:
        """The link that has this interface."""
        number, way = interface
        if way.startswith("port"):
            port = self.ports[self.node_of[number]]
            assert port is not None  # a path has it
            return port
        return self.uplinks[number] if way in ("up", "down") else self.links[number]

    def bytes_per_s(self, interface: Interface) -> float:
        """The rate of an interface while nothing is wrong with it."""
        return 1.0 / self.link_of(interface).seconds(1.0)

    @property
    def is_one_switch(self) -> bool:
        """Whether every rank has an interface of its own, and all of them are on one switch."""
        return not self.uplinks and not any(self.ports)

    def without_faults(self) -> "Topology":
        """The same topology, on which nothing goes wrong."""
        return dataclasses.replace(self, faults=NONE)


def is_plain(cluster: Cluster) -> bool:
    """Whether a single link says all about a cluster: every node has one device, and nothing is
    said of racks, faults and all-reduces."""
    return plain(cluster) == cluster and all(device_count(node) == 1 for node in cluster.nodes)


def plain(cluster: Cluster) -> Cluster:
    """The cluster without what only the simulator knows: racks, faults, the all-reduce."""
    return dataclasses.replace(cluster, racks=None, all_reduce=None, faults=None)


def topology_of(cluster: Cluster) -> Topology:
    """The topology of a cluster.

    Raises:
        InputError: a rate is not known, several devices have no `device_link`, a fault is of
            something that is not there, or the nodes are ranks of one machine.
    """
    if cluster.host is not None:
        raise InputError(
            f"cluster {cluster.name!r}: host: ranks that share the cores of one machine have no "
            "links; leave it out, or racks, faults, all_reduce and further devices"
        )
    machines = [node for node in cluster.nodes for _ in range(node.count)]
    for node in cluster.nodes:
        if node.link.bandwidth_bits_per_s is None and cluster.size > 1:
            raise InputError(
                f"cluster {cluster.name!r}: bandwidth_bits_per_s of the link of node {node.name!r} "
                "is not known; state it in the cluster file"
            )
    # Racks are filled one after the other. An uplink has the rate of all interfaces of its
    # rack, divided by the oversubscription; a single rack has none.
    racks = cluster.racks
    per_rack = len(machines) if racks is None else racks.nodes
    rack_of = [number // per_rack for number in range(len(machines))]
    uplinks: list[Link] = []
    if racks is not None and rack_of[-1] > 0:
        for rack in range(rack_of[-1] + 1):
            members = machines[rack * per_rack : (rack + 1) * per_rack]
            rate = sum(node.link.bandwidth_bits_per_s or 0.0 for node in members)
            uplinks.append(
                Link(bandwidth_bits_per_s=rate / racks.oversubscription, latency_s=racks.latency_s)
            )
    return Topology(
        node_of=tuple(
            number for number, node in enumerate(machines) for _ in range(device_count(node))
        ),
        links=tuple(node.link for node in machines),
        ports=tuple(_port(cluster, node) for node in machines),
        rack_of=tuple(rack_of),
        uplinks=tuple(uplinks),
        all_reduce=cluster.all_reduce or "ring",
        faults=cluster.faults or NONE,
    )


def one_device_each(cluster: Cluster) -> Cluster:
    """The cluster that a planner for equal ranks plans with: a node for every device, with an even
    part of the interface of the node that it is in, and nothing of what only the simulator knows.
    Nodes of several kinds of device are left as they are, for the planner to refuse."""
    nodes = tuple(
        _split(node) if len({d.kind for d in node.devices}) == 1 else node for node in cluster.nodes
    )
    return plain(dataclasses.replace(cluster, nodes=nodes))


def _split(node: Node) -> Node:
    """A node for every device of a node of one kind of device."""
    count, rate = device_count(node), node.link.bandwidth_bits_per_s
    return dataclasses.replace(
        node,
        devices=(dataclasses.replace(node.devices[0], count=1),),
        link=dataclasses.replace(node.link, bandwidth_bits_per_s=rate and rate / count),
        count=node.count * count,
    )


def device_count(node: Node) -> int:
    """The number of devices of a machine."""
    return sum(device.count for device in node.devices)


def _port(cluster: Cluster, node: Node) -> Link | None:
    """The port of each device of a node; None for a single device.

    Raises:
        InputError: its rate is not known.
    """
    if device_count(node) == 1:
        return None
    if node.device_link is None or node.device_link.bandwidth_bits_per_s is None:
        raise InputError(
            f"cluster {cluster.name!r}: node {node.name!r} has {device_count(node)} devices, and "
            "nothing says how they are joined; give its device_link a bandwidth_bits_per_s"
        )
    return node.device_link
