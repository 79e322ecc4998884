"""The cluster that a pipeline is planned for: `--devices` and `--bandwidth` change a named one."""

from collections.abc import Iterable, Mapping

from sparsepipe.planner.costs import planned_link
from systems.clusters.cluster import Cluster, Device, Link, Node, place
from systems.schema import InputError


def device_counts(cluster: Cluster) -> dict[str, int]:
    """The number of devices of each kind in a cluster."""
    counts = dict.fromkeys(cluster.kinds, 0)
    for node in cluster.nodes:
        for device in node.devices:
            counts[device.kind] += node.count * device.count
    return counts


def device_counts_text(counts: Mapping[str, int]) -> str:
    """The counts in the form that `--devices` takes: TitanV=1,TitanXp=3."""
    return ",".join(f"{kind}={count}" for kind, count in sorted(counts.items()) if count)


def check_links(cluster: Cluster, file: str | None = None) -> None:
    """Refuse a cluster whose devices have different links: the simulator gives all ranks one link.

    Args:
        file: what the user calls the cluster, for error messages.

    Raises:
        InputError: naming the first node whose devices have another link; a rate is not known.
    """
    first = cluster.nodes[0]
    common = planned_link(cluster, first)
    for node in cluster.nodes:
        own = planned_link(cluster, node)
        if own != common:
            raise InputError(
                f"{place(cluster, node, file)} gives each device a link of {own}, node "
                f"{first.name!r} one of {common}: all links are played alike; give them one rate "
                "and latency, or leave these nodes out"
            )


def target_cluster(
    cluster: Cluster, devices: str | None, bandwidth_bits_per_s: float | None
) -> Cluster:
    """The cluster with other numbers of devices, or another rate of all links; None keeps them.

    Raises:
        InputError: `devices` does not name numbers of the cluster's devices.
    """
    if devices is not None:
        cluster = cluster.with_devices(parse_device_counts(devices))
    if bandwidth_bits_per_s is not None:
        cluster = cluster.with_rate(bandwidth_bits_per_s)
    return cluster


def cluster_of(
    kinds: Iterable[str], devices: str | None, bandwidth_bits_per_s: float | None
) -> Cluster:
    """A cluster of devices that are profiled but in no cluster file, all on one switch.

    Args:
        kinds: the kinds that have profiles; one device of each, unless `devices` counts them.

    Raises:
        InputError: the rate of the links is not given, or `devices` are no counts.
    """
    counts = dict.fromkeys(kinds, 1) if devices is None else parse_device_counts(devices)
    text = device_counts_text(counts)
    if bandwidth_bits_per_s is None:
        raise InputError(
            f"--bandwidth-bits-per-s (none): no cluster says how {text} are linked; give the rate, "
            "such as 10e9, or a --cluster file"
        )
    link = Link(bandwidth_bits_per_s=bandwidth_bits_per_s)
    devices_here = tuple(Device(kind=kind, count=n) for kind, n in counts.items() if n)
    node = Node(name=text, devices=devices_here, link=link, device_link=link)
    return Cluster(name=text, source="--devices and --bandwidth-bits-per-s", nodes=(node,))


def parse_device_counts(text: str) -> dict[str, int]:
    """Read the counts in the text of `--devices`, such as TitanV=1,TitanXp=3.

    Raises:
        InputError: the text is not kind=number between commas, or leaves no device at all.
    """
    counts = {}
    for word in text.split(","):
        kind, _, number = word.partition("=")
        if not number.isdecimal():
            raise InputError(f"--devices {text}: write kind=number, such as TitanV=1,TitanXp=3")
        counts[kind] = int(number)
    if not any(counts.values()):
        raise InputError(f"--devices {text}: leaves no device; give 1 or more")
    return counts
