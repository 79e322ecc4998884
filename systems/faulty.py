"""Plays a program on a topology, with what goes wrong on it.

    timeline = simulate_on(program, topology_of(cluster))

The program is written as for a plain link: a rank's interfaces are (rank, "out") and (rank, "in").
Here each of its transfers is put on the links that it passes (`systems.clusters.topology`), by the
way that it sums (`systems.collectives`), and faults (`systems.clusters.faults`) change rates and
speeds meanwhile. A rank computes on the stream "rank N".
"""

import dataclasses
import heapq
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache

from systems import collectives
from systems.clusters.cluster import Link
from systems.clusters.host import Host
from systems.clusters.links import Links
from systems.clusters.topology import Interface, Topology
from systems.collectives import Phase
from systems.fair_links import Resource
from systems.program import Program, Task
from systems.schema import InputError
from systems.simulate import simulate
from systems.simulation import Simulation, Timeline

Network = Link | Links | Host | Topology
"""What messages cross: links that are all alike, those of each node, the cores of the one machine
of all ranks, or the links of a topology."""
Change = tuple[float, int, str]
"""An event of `Simulation`: the second, a number, and "rate" or "cut"."""


def simulate_on(program: Program, network: Network) -> Timeline:
    """Play a program on what its messages cross; on a topology, with what goes wrong on it. There
    every rank is played (`systems.rank_classes` takes equal links for granted).

    The tasks of the timeline are those of the program.

    Raises:
        InputError: see `simulate`; a link has failed, and something waits for it for ever; or a
            fault begins after the end.
    """
    if not isinstance(network, Topology):
        return simulate(program, network)
    tasks, parts = _placed(program.tasks, network)
    played = _Faulty(tasks, network).run()
    end_s = max((played.ends_s[last] for _, last in parts), default=0.0)
    begins_s = network.faults.last_from_s()
    if begins_s and begins_s >= end_s:
        raise InputError(
            f"faults: from_s = {begins_s:g}: the simulation ends at {end_s:g} s; give more steps, "
            "or let it begin earlier"
        )
    return Timeline(
        program.tasks,
        [played.starts_s[first] for first, _ in parts],
        [played.ends_s[last] for _, last in parts],
    )


def _placed(tasks: Sequence[Task], topology: Topology) -> tuple[list[Task], list[tuple[int, int]]]:
    """Put the tasks of a program on the links of a topology.

    Returns:
        (the tasks that stand for them, and for each of the program's the first and last of these).
    """
    placed: list[Task] = []
    parts: list[tuple[int, int]] = []
    for task in tasks:
        after, first = tuple(parts[number][1] for number in task.after), len(placed)
        if not task.loads:
            placed.append(dataclasses.replace(task, after=after))
        for phase in phases(topology, task) if task.loads else ():
            placed.append(_transfer(task.name, after, phase.loads, phase.latency_s))
            after = (len(placed) - 1,)
        parts.append((first, len(placed) - 1))
    return placed, parts


def _transfer(
    name: str, after: tuple[int, ...], loads: Mapping[Interface, float], latency_s: float = 0.0
) -> Task:
    """A transfer over links of a topology."""
    return Task(
        name,
        after,
        seconds=latency_s,
        loads=dict(loads.items()),
        pace_bytes=max(loads.values(), default=0.0),
    )


def phases(topology: Topology, task: Task) -> Sequence[Phase]:
    """A transfer between ranks on the links of a topology."""
    sent = {int(rank): size for (rank, way), size in task.loads.items() if way == "out"}
    received = {int(rank): size for (rank, way), size in task.loads.items() if way == "in"}
    if len(sent) == 1 and not task.sums:
        (source,) = sent
        return collectives.messages(
            topology, [(source, target, size) for target, size in received.items()], task.rounds
        )
    if len(received) == 1 and not task.sums:
        (target,) = received
        return collectives.messages(
            topology, [(source, target, size) for source, size in sent.items()], task.rounds
        )
    if sent != received or len(set(sent.values())) > 1:
        raise ValueError(f"transfer {task.name!r} has no one end, and is no balanced collective")
    ranks, size = list(sent), next(iter(sent.values()))
    if task.sums:
        n = len(ranks)
        return collectives.all_reduce(topology, ranks, size * n / max(1, 2 * (n - 1)))
    return collectives.exchange(topology, ranks, size, task.rounds)


class _Faulty(Simulation):
    """A simulation in which links change their rates, ranks their speeds, and others send too.

    There are two more kinds of event. "rate": an interface has another rate from now on. "cut": a
    transfer of another job ends, whatever it has sent.
    """

    def __init__(self, own: Sequence[Task], topology: Topology) -> None:
        self._faults = topology.faults
        # What other jobs do comes after the program's own tasks, and nothing waits for it.
        self._own = self._left = len(own)
        tasks, cuts, capacities = _other_jobs(topology, self._own)

        @cache
        def capacity(resource: Resource) -> float:
            interface = int(resource[0]), resource[1]
            return capacities.get(interface) or topology.bytes_per_s(interface)

        tasks = [*own, *tasks]
        super().__init__(tasks, capacity)
        self._rates: list[tuple[Interface, float]] = []
        for time_s, interface, bytes_per_s in _changes(topology):
            if time_s == 0:
                self._transfers.set_rate(interface, bytes_per_s)
            else:
                heapq.heappush(self._events, (time_s, len(self._rates), "rate"))
                self._rates.append((interface, bytes_per_s))
        for event in cuts:
            heapq.heappush(self._events, event)

    def _goes_on(self) -> bool:
        """Whether tasks of the program are left.

        Raises:
            InputError: they wait for ever.
        """
        if self._left and (not self._events or self._events[0][0] == math.inf):
            raise InputError(self._stalled())
        return self._left > 0

    def _waited_s(self, number: int) -> float:
        task = self._tasks[number]
        if task.stream is None or task.stream.startswith("job "):
            return super()._waited_s(number)
        return self._faults.computed_s(rank_of(task.stream), self._now, task.seconds)

    def _handle(self, time_s: float, number: int, kind: str) -> None:
        if kind == "rate":
            self._transfers.set_rate(*self._rates[number])
        elif kind == "cut":
            if self._transfers.is_under_way(number):
                self._moved.pop(number, None)
                self._transfers.remove(number)
        else:
            super()._handle(time_s, number, kind)

    def _end(self, number: int, time_s: float) -> None:
        if number < self._own:
            self._left -= 1
        super()._end(number, time_s)

    def _stalled(self) -> str:
        """What waits for ever, in one line."""
        rates = self._transfers.rates()
        stopped = [number for number, rate in rates.items() if rate == 0 and number < self._own]
        names = dict.fromkeys(repr(self._tasks[number].name) for number in stopped)
        links = dict.fromkeys(
            f"the link of {_owner(way)} {number}"
            for task in stopped
            for number, way in self._tasks[task].loads
            if self._transfers.has_failed((number, way))
        )
        return (
            f"faults: {', '.join(names)} of the job waits for ever, as "
            f"{' and '.join(links)} has failed, and {self._left - len(stopped)} other tasks are "
            "left; give the link an until_s, or a factor above 0"
        )


def rank_of(stream: str) -> int:
    """The rank that computes on a stream."""
    found = re.fullmatch(r"rank (\d+)", stream)
    if found is None:
        raise ValueError(f"stream {stream!r} is not that of a rank")
    return int(found[1])


def _owner(way: str) -> str:
    """What a direction of a link belongs to, in words."""
    return "node" if way in ("out", "in") else "rack"


def _changes(topology: Topology) -> list[tuple[float, Interface, float]]:
    """(second, interface, bytes/s) of every rate that changes."""
    links = {
        (node, way): topology.faults.link_factors(node=node)
        for node in range(len(topology.links))
        for way in ("out", "in")
    } | {
        (rack, way): topology.faults.link_factors(rack=rack)
        for rack in range(len(topology.uplinks))
        for way in ("up", "down")
    }
    return [
        (time_s, interface, factor * topology.bytes_per_s(interface))
        for interface, factors in links.items()
        if set(factors.values()) != {1.0}
        for time_s, factor in factors.items()
    ]


def _other_jobs(
    topology: Topology, first: int
) -> tuple[list[Task], list[Change], Mapping[Interface, float]]:
    """The tasks of other jobs, numbered from `first`, the events that cut them off, and the rates
    of interfaces that are theirs alone: one holds a job to the most that it sends."""
    tasks: list[Task] = []
    cuts: list[Change] = []
    capacities: dict[Interface, float] = {}
    for number, job in enumerate(topology.faults.jobs):
        start = Task(job.name, (), f"job {number}", job.from_s)
        size = math.inf if job.size_bytes is None else job.size_bytes
        path = _between_nodes(topology, job.source, job.target)
        loads: dict[Interface, float] = dict.fromkeys(path, size)
        if job.bandwidth_bits_per_s is not None:
            loads[number, "job"] = size
            capacities[number, "job"] = job.bandwidth_bits_per_s / 8
        tasks += [start, _transfer(job.name, (first + 2 * number,), loads)]
        if job.until_s is not None:
            cuts.append((job.until_s, first + 2 * number + 1, "cut"))
    return tasks, cuts, capacities


def _between_nodes(topology: Topology, source: int, target: int) -> list[Interface]:
    """What a message passes from one node to another, without the ports of devices."""
    path = topology.path(topology.node_of.index(source), topology.node_of.index(target))
    return [(number, way) for number, way in path if not way.startswith("port")]
