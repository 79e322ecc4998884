"""The links of nodes that are not alike, by the node."""

from collections.abc import Iterable
from dataclasses import dataclass

from systems.clusters.cluster import Link


@dataclass(frozen=True)
class Links:
    """The network interface of every node of a mixed cluster, each with its own rate.

    Where a single link is asked for, it answers as the slowest one would. Every message has the
    largest latency of them.
    """

    of_node: tuple[Link, ...]

    @property
    def slowest(self) -> Link:
        """The smallest rate and the largest latency."""
        return slowest(self.of_node)

    @property
    def latency_s(self) -> float:
        """The largest latency."""
        return self.slowest.latency_s

    def seconds(self, size_bytes: float) -> float:
        """The seconds that so many bytes take over the slowest link; see `Link.seconds`."""
        return self.slowest.seconds(size_bytes)

    def seconds_at(self, node: int | str, size_bytes: float) -> float:
        """The seconds that so many bytes take over the link of a node."""
        return self.of_node[int(node)].seconds(size_bytes)

    @property
    def bytes_per_s(self) -> tuple[float, ...]:
        """The rate of every link.

        Raises:
            InputError: one is not known.
        """
        return tuple(1.0 / link.seconds(1.0) for link in self.of_node)


def slowest(links: Iterable[Link]) -> Link:
    """The link that a collective over several links sees: their smallest rate, their largest
    latency. Its rate is None if any is not known."""
    every = list(links)
    rates = [link.bandwidth_bits_per_s for link in every]
    known = [rate for rate in rates if rate is not None]
    return Link(
        bandwidth_bits_per_s=min(known) if len(known) == len(rates) else None,
        latency_s=max(link.latency_s for link in every),
    )
