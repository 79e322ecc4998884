"""Small clusters for tests: one byte a second is 8 bit/s."""

from typing import Any

from systems.clusters.cluster import Cluster, Device, Link, Node
from systems.clusters.racks import Racks
from systems.clusters.topology import Topology, topology_of


def small(
    nodes: int = 4,
    devices: int = 1,
    *,
    rate: float = 8.0,
    port_rate: float = 32.0,
    latency_s: float = 0.0,
    port_latency_s: float = 0.0,
    racks: Racks | None = None,
    **more: Any,
) -> Topology:
    """Equal nodes with so many devices each; rates in bits/s."""
    node = Node(
        name="n",
        count=nodes,
        devices=(Device(kind="gpu", count=devices),),
        link=Link(bandwidth_bits_per_s=rate, latency_s=latency_s),
        device_link=Link(bandwidth_bits_per_s=port_rate, latency_s=port_latency_s),
    )
    return topology_of(Cluster(name="c", source="a test", nodes=(node,), racks=racks, **more))
