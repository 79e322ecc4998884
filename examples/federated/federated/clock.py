"""A virtual clock: who starts, trains and arrives when, without training anything.

    for event in play(coordinator, wire, duration_s):
        ...     # event.time_s, event.flight, event.outcome, event.stepped

What clients learn does not change when they arrive, so this one schedule serves twice: `testbed
simulate` plays it alone, and `testbed run` with one process trains along it, every client from the
very version that it has got. Then the time is simulated, and the learning is real.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from federated.coordinator import Coordinator, Flight, Outcome
from systems.clusters.cluster import Cluster, Link


@dataclass(frozen=True, kw_only=True)
class Wire:
    """What messages cost: how large they are, and the links of the server and of the clients."""

    sizes: Callable[[Flight], tuple[float, float]] = lambda flight: (0.0, 0.0)
    """The bytes down and up of a flight."""
    server: Link | None = None
    """The server's link, on which messages of one direction follow one another. None: it is never
    waited for."""
    clients: tuple[Link, ...] = ()
    """The links of clients, which take turns: client i has that with the number i modulo their
    number. Empty: messages take no time."""

    @classmethod
    def on(cls, cluster: Cluster, sizes: Callable[[Flight], tuple[float, float]]) -> "Wire":
        """The wire of a cluster, whose first machine is the server, and the others clients. Of a
        cluster that names one kind, all have the same link. Rates that are not known cost nothing.
        """
        server, *clients = cluster.links if len(cluster.nodes) > 1 else cluster.links[:1] * 2
        if any(link.bandwidth_bits_per_s is None for link in (server, *clients)):
            return cls(sizes=sizes)
        return cls(sizes=sizes, server=server, clients=tuple(clients))

    def of_client(self, client: int, size_bytes: float) -> float:
        """The seconds that a message takes on the link of a client."""
        if not self.clients:
            return 0.0
        link = self.clients[client % len(self.clients)]
        return link.seconds(size_bytes) + link.latency_s

    def way_s(self, client: int, down: float, up: float) -> float:
        """The seconds that both messages of a flight take on the link of a client."""
        return self.of_client(client, down) + self.of_client(client, up)

    def of_server(self, size_bytes: float) -> float:
        """The seconds that a message takes on the link of the server."""
        return self.server.seconds(size_bytes) if self.server is not None else 0.0


@dataclass(frozen=True)
class Event:
    """A flight has ended."""

    time_s: float
    """When, on the virtual clock."""
    flight: Flight
    outcome: Outcome
    stepped: bool
    """Whether the server stepped then."""
    started_s: float
    """When the flight has started."""
    staleness: int
    """How many steps the server has done since then, before this one."""


def play(
    coordinator: Coordinator, wire: Wire, duration_s: Callable[[Flight], float]
) -> Iterator[Event]:
    """Yield the ends of all flights in their order, for ever. Before every event the coordinator
    has taken it in; after it, new clients start."""
    now_s, server_out_s, server_in_s = 0.0, 0.0, 0.0
    heap: list[tuple[float, int, Flight, str]] = []  # when, number, and what then
    began_s: dict[int, float] = {}
    while True:
        together = heap and heap[0][0] <= now_s  # what ends at once ends before others start
        for flight in [] if together else coordinator.start():
            began_s[flight.number] = now_s
            down, _ = wire.sizes(flight)
            server_out_s = max(server_out_s, now_s) + wire.of_server(down)
            got_s = max(server_out_s, now_s + wire.of_client(flight.client, down))
            share = coordinator.dies_after(flight)
            ends_s = got_s + duration_s(flight) * (1.0 if share is None else share)
            heapq.heappush(
                heap, (ends_s, flight.number, flight, "trained" if share is None else "died")
            )
        now_s, number, flight, what = heapq.heappop(heap)
        if what == "trained":  # its update leaves now
            _, up = wire.sizes(flight)
            server_in_s = max(server_in_s, now_s) + wire.of_server(up)
            there_s = max(server_in_s, now_s + wire.of_client(flight.client, up))
            heapq.heappush(heap, (there_s, number, flight, "arrived"))
            continue
        outcome, stepped = coordinator.arrived(number, alive=what == "arrived")
        staleness = coordinator.version - stepped - flight.version
        yield Event(now_s, flight, outcome, stepped, began_s.pop(number), staleness)
