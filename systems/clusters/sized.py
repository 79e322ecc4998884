"""Clusters of nodes that are all alike, with a node for every rank."""

from systems.clusters import cluster
from systems.clusters.cluster import Cluster
from systems.profiles.emulation import Emulation
from systems.schema import InputError


def sized_cluster(name: str, world_size: int) -> Cluster:
    """The cluster that `--cluster` names, with a node for every rank.

    Raises:
        InputError: nodes that are not alike, or another number of them where it is fixed.
    """
    target = cluster.load(name)
    cluster.check_uniform(target, name)
    if len(target.nodes) == 1:
        target = target.with_size(world_size)
    if target.size != world_size:
        raise InputError(
            f"--world-size {world_size}: cluster {target.name} mixes {target.size} nodes; give "
            f"{target.size}, or another --cluster"
        )
    return target


def link_rates_of(name: str, world_size: int, emulation: Emulation) -> tuple[float, ...]:
    """The rate of the emulated link of every rank that stands for one of a cluster, in bits/s.

    Raises:
        InputError: too small a cluster, nodes that are not alike, or links of unknown rate.
    """
    rates = [link.bandwidth_bits_per_s for link in sized_cluster(name, world_size).links]
    if None in rates:
        raise InputError(
            f"--cluster {name}: the rate of its links is not known; give a cluster that states it"
        )
    return tuple(emulation.rate_bits_per_s(rate) for rate in rates if rate is not None)
