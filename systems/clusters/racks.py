"""Racks of a cluster, and the ways in which its ranks sum their gradients."""

from dataclasses import dataclass
from typing import Literal

from systems.schema import InputError

AllReduce = Literal["ring", "tree", "hierarchical", "by size"]
"""How ranks sum their gradients; `systems.collectives` explains the ways."""


@dataclass(frozen=True, kw_only=True)
class Racks:
    """How nodes are divided among racks, whose uplinks may be slower than all that they carry."""

    nodes: int
    """How many nodes a rack has, in the order of the cluster; the last one may have fewer."""
    oversubscription: float = 1.0
    """The rate of all interfaces of a rack over that of its uplink."""
    latency_s: float = 0.0
    """What the way to another rack adds to the latency of a message."""

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise InputError(f"nodes = {self.nodes}: give 1 or more for each rack")
        if not 0 < self.oversubscription < float("inf"):
            raise InputError(
                f"oversubscription = {self.oversubscription:g}: give more than 0; 1 does not block"
            )
        if not 0 <= self.latency_s < float("inf"):
            raise InputError(f"latency_s = {self.latency_s:g}: give 0 or more seconds")
