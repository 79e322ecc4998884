"""Refuses clusters whose nodes differ, for planners that take all of them to be alike."""

from systems.clusters.cluster import Cluster, Node, place
from systems.schema import InputError


def check_uniform(cluster: Cluster, file: str | None = None) -> None:
    """Refuse a cluster whose machines differ, for a planner that takes all of them to be the same.

    Args:
        file: the preset or the TOML file that the cluster was loaded from, for messages.

    Raises:
        InputError: several kinds of device, several devices in a node, or links that differ.
    """
    first = cluster.nodes[0]
    for node in cluster.nodes:
        kinds = dict.fromkeys(device.kind for device in node.devices)
        if len(kinds) > 1 or first.devices[0].kind not in kinds:
            beside = "" if node is first else f", node {first.name!r} {first.devices[0].kind}"
            raise InputError(
                f"{place(cluster, node, file)} has {' and '.join(kinds)}{beside}: one kind of "
                "device is planned for here; leave the others out (`testbed plan sparsepipe` plans "
                "for unequal devices)"
            )
        check_one_device(cluster, node, file)
    _check_equal_links(cluster, file)


def check_one_device(cluster: Cluster, node: Node, file: str | None = None) -> None:
    """Raise an InputError if a node has several devices. See `check_uniform`."""
    devices = sum(device.count for device in node.devices)
    if devices > 1:
        raise InputError(
            f"{place(cluster, node, file)} has {devices} devices: every rank is planned as a "
            f"node with one device and its own link; give count = {node.count * devices} nodes "
            "of one device, each with its part of the link's rate"
        )


def _check_equal_links(cluster: Cluster, file: str | None = None) -> None:
    """Refuse a cluster in which some nodes have other network interfaces than the rest.

    Raises:
        InputError: a node has another link; the text names the first one. See `check_uniform`.
    """
    first = cluster.nodes[0]
    for node in cluster.nodes:
        if node.link != first.link:
            raise InputError(
                f"{place(cluster, node, file)} has a link of {node.link}, node {first.name!r} one "
                f"of {first.link}: all links are planned alike; give them one rate and latency, or "
                "leave these nodes out"
            )
