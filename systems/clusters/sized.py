"""Clusters of nodes that are all alike, with a node for every rank."""

from dataclasses import dataclass
from pathlib import Path

from systems.clusters import cluster
from systems.clusters.cluster import Cluster, Link
from systems.clusters.host import Host
from systems.clusters.topology import Topology, device_count, is_plain, one_device_each, topology_of
from systems.clusters.uniform import check_uniform
from systems.profiles.emulation import Emulation
from systems.profiles.profile import ModelProfile, load as load_profile
from systems.schema import InputError


def sized_cluster(name: str, world_size: int) -> Cluster:
    """The cluster that `--cluster` names, with a node for every rank.

    Raises:
        InputError: nodes that are not alike, or another number of them where it is fixed.
    """
    target = cluster.load(name)
    check_uniform(target, name)
    return fitted(target, world_size)


def fitted(target: Cluster, world_size: int) -> Cluster:
    """A cluster with a node for every rank. One that names a single kind of node gets as many.

    Raises:
        InputError: it has several kinds, and another number of nodes.
    """
    if len(target.nodes) == 1:
        target = target.with_size(world_size)
    if target.size != world_size:
        raise InputError(
            f"--world-size {world_size}: cluster {target.name} mixes {target.size} nodes; give "
            f"{target.size}, or another --cluster"
        )
    return target


@dataclass(frozen=True, kw_only=True)
class SimulatedCluster:
    """A cluster that the simulator gets, with a device for every rank."""

    cluster: Cluster
    """The cluster, with as many nodes as its ranks need."""
    planned: Cluster
    """What a planner for equal ranks plans with: a node for every rank."""
    topology: Topology | None
    """What is played; None: equal links say all about it."""

    def network(self, target: Cluster) -> Link | Host | Topology:
        """Return the network that the simulator plays. `target` is the cluster that was planned,
        its figures measured if need be."""
        return target.network if self.topology is None else self.topology


def simulated_cluster(name: str, world_size: int) -> SimulatedCluster:
    """The cluster that `--cluster` names, with a device for every rank, for the simulator.

    Raises:
        InputError: devices that are not alike, another number of them where it is fixed, or what
            `topology_of` refuses.
    """
    target = cluster.load(name, simulated=True)
    if is_plain(target):
        sized = sized_cluster(name, world_size)
        return SimulatedCluster(cluster=sized, planned=sized, topology=None)
    of_node = device_count(target.nodes[0])
    if len(target.nodes) == 1 and world_size % of_node == 0:
        target = target.with_size(world_size // of_node)
    devices = sum(node.count * device_count(node) for node in target.nodes)
    if devices != world_size:
        raise InputError(
            f"--world-size {world_size}: cluster {target.name} has {devices} devices, "
            f"{of_node} a node, each of them a rank; give {devices}, or whole nodes"
        )
    planned = one_device_each(target)
    check_uniform(planned, name)
    return SimulatedCluster(cluster=target, planned=planned, topology=topology_of(target))


def link_rates_of(
    name: str, world_size: int, emulation: Emulation, *, alike: bool = True
) -> tuple[float, ...]:
    """The rate of the emulated link of every rank that stands for one of a cluster, in bits/s.

    Args:
        alike: whether the nodes must be alike.

    Raises:
        InputError: too small a cluster, nodes that are not alike, or links of unknown rate.
    """
    target = sized_cluster(name, world_size) if alike else fitted(cluster.load(name), world_size)
    rates = [link.bandwidth_bits_per_s for link in target.links]
    if None in rates:
        raise InputError(
            f"--cluster {name}: the rate of its links is not known; give a cluster that states it"
        )
    return tuple(emulation.rate_bits_per_s(rate) for rate in rates if rate is not None)


def profile_of(file: str | None, target: Cluster) -> ModelProfile:
    """The profile that `--profile` names, which was taken on the devices of a cluster.

    Args:
        file: a JSON file. None: the user has named none.
        target: the cluster, whose nodes are alike.

    Raises:
        InputError: there is no profile, or it is of another kind of device.
    """
    (kind,) = target.kinds
    if file is None:
        raise InputError(f"--profile None: says not what a step costs; give one taken on {kind}")
    profile = load_profile(Path(file))
    if profile.device != kind:
        raise InputError(
            f"--profile {file}: was taken on {profile.device}, and cluster {target.name} has "
            f"{kind}; give a profile of that device"
        )
    return profile
