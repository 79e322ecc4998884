"""Places groups of GPUs on machines, as the ranks of a measured job stood there."""

from collections.abc import Sequence

from systems.clusters.cluster import Cluster, Device, Link, Node
from systems.schema import InputError
from systems.validation.job import Group, Replica
from systems.validation.rates import Fits, Network


def place(
    stages: Sequence[Sequence[Group]], gpus_of_a_machine: int, network: Network, source: str
) -> tuple[Cluster, list[tuple[Replica, ...]]]:
    """Place the replicas of all stages on machines, in the order of their ranks.

    That order goes by stage, then by replica. A machine is filled before the next one begins; its
    GPUs are of one kind.

    Args:
        source: where the cluster is described.

    Returns:
        (the cluster, the replicas of every stage).

    Raises:
        InputError: no network rate of a kind of GPU was measured.
    """
    nodes: list[Node] = []
    placed: list[tuple[Replica, ...]] = []
    left = 0
    for groups in stages:
        replicas = []
        for group in groups:
            if not nodes or nodes[-1].devices[0].kind != group.kind or left < group.degree:
                left = max(gpus_of_a_machine, group.degree)
                nodes.append(_node(len(nodes), group.kind, left, network))
            left -= group.degree
            replicas.append(Replica(group=group, machine=len(nodes) - 1))
        placed.append(tuple(replicas))
    name = f"{len(nodes)} machines"
    return Cluster(name=name, source=source, nodes=tuple(nodes)), placed


def _node(number: int, kind: str, gpus: int, network: Network) -> Node:
    """A machine, with the highest rates that were measured of its kind."""
    link = _link(network.between, kind)
    if link is None:
        raise InputError(f"no network rate of {kind} was measured")
    return Node(
        name=f"machine {number}",
        devices=(Device(kind=kind, count=gpus),),
        link=link,
        device_link=_link(network.inside, kind),
    )


def _link(fits: Fits, kind: str) -> Link | None:
    """The highest rate that was measured of a kind, and its latency; None: there is none."""
    if kind not in fits:
        return None
    return max(fits[kind].values(), key=lambda fit: fit.peak_bytes_per_s).link()
