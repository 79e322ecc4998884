"""A discrete-event simulator: tasks with dependencies on compute streams and on full-duplex links.

    program = Program()
    forward = program.compute("rank 0", 0.010, name="forward")
    program.flow(0, 1, size_bytes=4e6, name="activations", after=[forward])
    timeline = simulate(program, Link(bandwidth_bits_per_s=10e9, latency_s=50e-6))

A compute stream runs one task at a time, in the order in which tasks become ready (ties: in the
order in which they were added). Transfers share links as `systems.fair_links` explains; the switch
between the nodes does not block. A transfer's latency follows its last byte. The simulator is
deterministic. It knows tasks, not systems.

A program can be played on one machine as well, whose cores all tasks share:

    timeline = simulate(program, host)      # see [Note: ranks that share cores]
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from systems.clusters.cluster import Link
from systems.clusters.host import Host
from systems.clusters.links import Links
from systems.fair_links import CORES, Resource, Transfers

NO_LOADS: Mapping[Resource, float] = {}
"""The loads of what is no transfer: one mapping for all tasks."""
SAME_TIME_S = 1e-12
"""Events this close happen at once: equal workers stay in step in spite of rounding."""


@dataclass(frozen=True, slots=True)
class Task:
    """A computation (it has a `stream`), a transfer (it has `loads`), or a point in time without
    work, at which other tasks have ended."""

    name: str
    """What a trace calls it."""
    after: tuple[int, ...]
    """The numbers of the tasks that must have ended before this one begins."""
    stream: str | None = None
    """The compute stream that a computation runs on, such as "rank 0"."""
    seconds: float = 0.0
    """How long a computation takes, or the latency after the last byte of a transfer."""
    loads: Mapping[Resource, float] = field(default_factory=lambda: NO_LOADS)
    """Bytes that a transfer moves through each interface; all of them progress together."""
    pace_bytes: float = 0.0
    """The bytes that a transfer's rate is of: its largest load, or that of each of the transfers
    for which it stands."""
    messages: float = 0
    """How many messages a transfer consists of, over all nodes."""
    sums: bool = False
    """Whether they are those of a ring all-reduce, whose receivers add them up."""


class Program:
    """A list of tasks. Every method adds one task and returns its number, on which later tasks can
    depend with `after`."""

    def __init__(self, latency_s: float = 0.0) -> None:
        """An empty program whose messages have this latency, in seconds, one way."""
        self.tasks: list[Task] = []
        self._latency_s = latency_s

    def compute(
        self, stream: str, seconds: float, *, name: str = "", after: Iterable[int] = ()
    ) -> int:
        """Add `seconds` of work on a compute stream."""
        return self._add(Task(name, tuple(after), stream=stream, seconds=seconds))

    def join(self, after: Iterable[int], name: str = "") -> int:
        """Add a point in time at which all tasks of `after` have ended."""
        return self._add(Task(name, tuple(after)))

    def flow(
        self,
        source: int,
        target: int,
        size_bytes: float,
        *,
        sent: int = 1,
        received: int = 1,
        count: int = 1,
        name: str = "",
        after: Iterable[int] = (),
    ) -> int:
        """Add a message of `size_bytes` from the node `source` to the node `target`.

        Where the two stand for classes of nodes (`systems.rank_classes`), it is many messages.

        Args:
            sent: how many such messages each node of the source's class sends.
            received: how many each node of the target's class receives.
            count: how many messages together have that size.
        """
        loads: dict[Resource, float] = {
            (source, "out"): sent * size_bytes,
            (target, "in"): received * size_bytes,
        }
        return self.transfer(loads, count=count, pace_bytes=size_bytes, name=name, after=after)

    def exchange(
        self,
        nodes: Sequence[int],
        size_bytes: float,
        *,
        messages: int,
        peers: int = 1,
        name: str = "",
        after: Iterable[int] = (),
    ) -> int:
        """Add a balanced collective: every node sends and receives `size_bytes`, at one pace.

        Args:
            messages: how many messages follow one another in it, each with its latency.
            peers: to how many other nodes each sends one at a time.
        """
        loads = _both_ways(nodes, size_bytes)
        count = messages * peers * len(nodes)
        return self.transfer(loads, messages=messages, count=count, name=name, after=after)

    def all_reduce(
        self,
        nodes: Sequence[int],
        size_bytes: float,
        *,
        ranks: int | None = None,
        name: str = "",
        after: Iterable[int] = (),
    ) -> int:
        """Add a ring all-reduce of `size_bytes`.

        Each of the n nodes cuts its bytes into n parts and hands one on to the next node, 2 (n - 1)
        times: first the sums of the parts travel, then their results. One node alone does nothing.

        Args:
            ranks: how many nodes there are, where `nodes` stand for classes of them.
        """
        n = len(nodes) if ranks is None else ranks
        rounds = 2 * (n - 1)
        moved_bytes = rounds * size_bytes / n
        return self._add(
            Task(
                name,
                tuple(after),
                seconds=rounds * self._latency_s,
                loads=_both_ways(nodes, moved_bytes),
                pace_bytes=moved_bytes,
                messages=rounds * n,
                sums=True,
            )
        )

    def transfer(
        self,
        loads: Mapping[Resource, float],
        *,
        messages: int = 1,
        count: int | None = None,
        pace_bytes: float | None = None,
        name: str = "",
        after: Iterable[int] = (),
    ) -> int:
        """Add messages that progress together, such as one worker's slices to several servers.

        Args:
            loads: the bytes that they move through each interface.
            messages: how many messages follow one another, each with its latency.
            count: how many there are in all; None: no others.
            pace_bytes: the largest load of each of the transfers that this one stands for; None: it
                stands for itself, and that is its largest load.
        """
        return self._add(
            Task(
                name,
                tuple(after),
                seconds=messages * self._latency_s,
                loads=loads,
                pace_bytes=max(loads.values(), default=0.0) if pace_bytes is None else pace_bytes,
                messages=messages if count is None else count,
            )
        )

    def _add(self, task: Task) -> int:
        """Add a task whose predecessors are there already; returns its number."""
        if task.after and not 0 <= min(task.after) <= max(task.after) < len(self.tasks):
            raise ValueError(f"task {task.name!r} depends on one that has not been added yet")
        self.tasks.append(task)
        return len(self.tasks) - 1


def _both_ways(nodes: Iterable[int], size_bytes: float) -> dict[Resource, float]:
    """The loads of a balanced collective."""
    return {(node, way): size_bytes for node in nodes for way in ("out", "in")}


@dataclass(frozen=True)
class Timeline:
    """When every task of a program began and ended."""

    tasks: Sequence[Task]
    """The tasks of the program."""
    starts_s: Sequence[float]
    """The second at which each of them began."""
    ends_s: Sequence[float]
    """The second at which each of them ended; of a transfer, its latency included."""

    @property
    def end_s(self) -> float:
        """The second at which the last task ended."""
        return max(self.ends_s, default=0.0)

    def spans(self) -> Iterator[tuple[str, str, float, float]]:
        """The spans of a trace: (track, name, start, end), in seconds.

        Every compute stream is a track, and so is every direction of an interface; a transfer has a
        span on each of those that it uses, without its latency.
        """
        for task, start_s, end_s in zip(self.tasks, self.starts_s, self.ends_s, strict=True):
            if task.stream is not None:
                yield task.stream, task.name, start_s, end_s
            for node, way in task.loads:
                yield f"rank {node} {way}", task.name, start_s, end_s - task.seconds

    def busy_s(self, stream: str) -> float:
        """The seconds for which a compute stream worked."""
        return sum(task.seconds for task in self.tasks if task.stream == stream)


def simulate(program: Program, network: Link | Links | Host) -> Timeline:
    """Play a program on nodes whose interfaces all have the rate of a link, or each its own, or on
    one machine whose cores all nodes share.

    The latency of the network is not read: the program has its own.

    Raises:
        InputError: the rate of the link is not known.
    """
    tasks = program.tasks
    if isinstance(network, Host):
        loads: list[Mapping[Resource, float]] = [core_seconds(task, network) for task in tasks]
        paces = [max((size for r, size in of.items() if r != CORES), default=0.0) for of in loads]
        waits_s = [0.0 if task.stream is not None else task.seconds for task in tasks]
    else:
        loads = [task.loads for task in tasks]
        paces, waits_s = [task.pace_bytes for task in tasks], [task.seconds for task in tasks]
    return _Simulation(tasks, loads, paces, waits_s, _capacity(network)).run()


def _capacity(network: Link | Links | Host) -> Callable[[Resource], float]:
    """What a resource moves in a second: bytes over an interface, or core time of a thread."""
    if isinstance(network, Host):
        cores = network.cores
        return lambda resource: cores if resource == CORES else 1.0
    if isinstance(network, Links):
        rates = dict(enumerate(network.bytes_per_s))
        return lambda interface: rates[int(interface[0])]
    bytes_per_s = 1.0 / network.seconds(1.0)
    return lambda _: bytes_per_s


def core_seconds(task: Task, host: Host) -> dict[Resource, float]:
    """The core time that a task takes on a machine whose ranks share its cores: of every thread
    that is busy with it, and of CORES, which is their sum. See [Note: max-min fair cores]."""
    if task.stream is not None:
        of_threads: dict[Resource, float] = {(task.stream, "thread"): task.seconds}
        return {**of_threads, CORES: task.seconds * host.threads} if task.seconds else {}
    if not any(task.loads.values()):
        return {}
    ways = Counter(way for _, way in task.loads)
    loads: dict[Resource, float] = {}
    for (node, way), size_bytes in task.loads.items():
        count = task.messages / ways[way]  # every message leaves one node, and reaches another
        cost = host.ring if task.sums else host.message
        loads[f"node {node}", way] = cost.seconds(size_bytes, count) / 2
    return {**loads, CORES: sum(loads.values())}


class _Simulation:
    """The event loop: it goes from one end of a task to the next.

    A task first moves its loads, if it has any, and then waits for some seconds: a transfer for its
    latency, a computation that shares nothing for as long as it takes. An event is (second, number
    of a task, kind). "moved": a task has moved its loads. "end": the task has ended.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        loads: Sequence[Mapping[Resource, float]],
        paces: Sequence[float],
        waits_s: Sequence[float],
        capacity: Callable[[Resource], float],
    ) -> None:
        self._tasks, self._paces, self._waits_s = tasks, paces, waits_s
        self._transfers = Transfers(loads, paces, capacity)
        self._starts, self._ends = [0.0] * len(tasks), [0.0] * len(tasks)
        # How many tasks each one still waits for, and which tasks wait for it.
        self._blockers: list[int] = []
        self._followers: list[list[int]] = [[] for _ in tasks]
        for number, task in enumerate(tasks):
            befores = set(task.after)
            self._blockers.append(len(befores))
            for before in befores:
                self._followers[before].append(number)
        # By compute stream: the tasks that are ready for it, first those that were ready first.
        self._queues: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        self._running: set[str] = set()
        # By task: when it will have moved its loads at its present rate. A change of the rate makes
        # a new "moved" event; the older ones, which name another second, are void.
        self._moved: dict[int, float] = {}
        self._events: list[tuple[float, int, str]] = []
        self._now = 0.0

    def run(self) -> Timeline:
        """Play all tasks."""
        for number, blockers in enumerate(self._blockers):
            if not blockers:
                self._begin(number)
        self._share()
        while self._events:
            self._now = self._events[0][0]
            while self._events and self._events[0][0] <= self._now + SAME_TIME_S:
                self._handle(*heapq.heappop(self._events))
            self._share()
        return Timeline(self._tasks, self._starts, self._ends)

    def _handle(self, time_s: float, number: int, kind: str) -> None:
        """Something has happened to a task: begin what has waited for it."""
        task = self._tasks[number]
        if kind == "moved":
            if self._moved.get(number) != time_s:  # void: its rate has changed since
                return
            del self._moved[number]
            self._transfers.remove(number)
            if self._waits_s[number]:
                heapq.heappush(self._events, (time_s + self._waits_s[number], number, "end"))
                return
        if task.stream is not None:
            self._running.discard(task.stream)
            self._next_on(task.stream)
        self._ends[number] = time_s
        for follower in self._followers[number]:
            self._blockers[follower] -= 1
            if not self._blockers[follower]:
                self._begin(follower)

    def _begin(self, number: int) -> None:
        """All tasks that a task has waited for have ended."""
        stream = self._tasks[number].stream
        if stream is None:
            self._start(number)
            return
        heapq.heappush(self._queues[stream], (self._now, number))
        self._next_on(stream)

    def _next_on(self, stream: str) -> None:
        """Run the next task of a compute stream, if the stream is free and has one."""
        if stream in self._running or not self._queues[stream]:
            return
        _, number = heapq.heappop(self._queues[stream])
        self._running.add(stream)
        self._start(number)

    def _start(self, number: int) -> None:
        """Let a task move its loads, or wait if it has none."""
        self._starts[number] = self._now
        if self._paces[number] > 0:
            self._transfers.add(number, self._now)
        else:
            heapq.heappush(self._events, (self._now + self._waits_s[number], number, "end"))

    def _share(self) -> None:
        """Share links or cores anew, and note when tasks will have moved their loads."""
        for number, end_s in self._transfers.share(self._now):
            self._moved[number] = end_s
            heapq.heappush(self._events, (end_s, number, "moved"))
