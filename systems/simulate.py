"""A discrete-event simulator: tasks with dependencies on compute streams and on full-duplex links.

    program = Program()
    forward = program.compute("rank 0", 0.010, name="forward")
    program.flow(0, 1, size_bytes=4e6, name="activations", after=[forward])
    timeline = simulate(program, Link(bandwidth_bits_per_s=10e9, latency_s=50e-6))

A compute stream runs one task at a time, in the order in which tasks become ready (ties: in the
order in which they were added). Transfers share each direction of every network interface max-min
fairly; the switch does not block. A transfer's latency follows its last byte. The simulator is
deterministic. It knows tasks, not systems.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from systems.clusters.cluster import Link

Interface = tuple[int, str]
"""A node and a direction: (3, "out")."""

SAME_TIME_S = 1e-12
"""Events this close happen at once: equal workers stay in step in spite of rounding."""


@dataclass(frozen=True, slots=True)
class Task:
    """A computation (`stream`, `seconds`) or a transfer (`loads`); with neither, a mere point."""

    name: str
    after: tuple[int, ...]
    stream: str | None = None
    seconds: float = 0.0
    """Of computation, or of latency after a transfer's last byte."""
    loads: Mapping[Interface, float] = field(default_factory=dict)
    """Bytes that a transfer moves through each interface; all of them progress together."""


class Program:
    """A list of tasks; each method adds one and returns its number, to depend on."""

    def __init__(self, latency_s: float = 0.0) -> None:
        self.tasks: list[Task] = []
        self._latency_s = latency_s

    def compute(
        self, stream: str, seconds: float, *, name: str = "", after: Iterable[int] = ()
    ) -> int:
        """`seconds` of work on a stream."""
        return self._add(Task(name, tuple(after), stream=stream, seconds=seconds))

    def join(self, after: Iterable[int], name: str = "") -> int:
        """A point that all of `after` have reached."""
        return self._add(Task(name, tuple(after)))

    def flow(
        self,
        source: int,
        target: int,
        size_bytes: float,
        *,
        name: str = "",
        after: Iterable[int] = (),
    ) -> int:
        """A message from one node to another, one latency long beside its bytes."""
        loads = {(source, "out"): size_bytes, (target, "in"): size_bytes}
        return self.transfer(loads, name=name, after=after)

    def exchange(
        self,
        nodes: Sequence[int],
        size_bytes: float,
        *,
        messages: int,
        name: str = "",
        after: Iterable[int] = (),
    ) -> int:
        """A balanced collective: every node sends and receives `size_bytes`, all at one pace.

        `messages` follow one another in it, each with its latency: 2 (n - 1) in a ring all-reduce.
        """
        loads = {(node, way): size_bytes for node in nodes for way in ("out", "in")}
        return self.transfer(loads, messages=messages, name=name, after=after)

    def transfer(
        self,
        loads: Mapping[Interface, float],
        *,
        messages: int = 1,
        name: str = "",
        after: Iterable[int] = (),
    ) -> int:
        """Messages that progress together, as one worker's slices to several others: bytes that
        they move through each interface, and how many follow one another."""
        seconds = messages * self._latency_s
        return self._add(Task(name, tuple(after), seconds=seconds, loads=loads))

    def _add(self, task: Task) -> int:
        if any(not 0 <= number < len(self.tasks) for number in task.after):
            raise ValueError(f"task {task.name!r} depends on one that has not been added yet")
        self.tasks.append(task)
        return len(self.tasks) - 1


@dataclass(frozen=True)
class Timeline:
    """When every task of a program began and ended, in seconds."""

    tasks: Sequence[Task]
    starts_s: Sequence[float]
    ends_s: Sequence[float]

    @property
    def end_s(self) -> float:
        """When the last task ended."""
        return max(self.ends_s, default=0.0)

    def spans(self) -> Iterator[tuple[str, str, float, float]]:
        """(track, name, start, end) of every task: streams, and a track for each interface."""
        for task, start_s, end_s in zip(self.tasks, self.starts_s, self.ends_s, strict=True):
            if task.stream is not None:
                yield task.stream, task.name, start_s, end_s
            for node, way in task.loads:
                yield f"rank {node} {way}", task.name, start_s, end_s - task.seconds

    def busy_s(self, stream: str) -> float:
        """Seconds that a compute stream worked."""
        return sum(task.seconds for task in self.tasks if task.stream == stream)


def simulate(program: Program, link: Link) -> Timeline:
    """Run `program` on nodes whose interfaces all have the rate of `link`.

    Raises:
        InputError: the link's rate is not known.
    """
    return _Simulation(program.tasks, 1.0 / link.seconds(1.0)).run()


class _Transfers:
    """The transfers under way, and the rate of each: max-min fair over the interfaces.

    A transfer's rate is that of its largest load; it takes a proportionate part of the others.
    """

    def __init__(self, tasks: Sequence[Task], bytes_per_s: float) -> None:
        self._tasks, self._bytes_per_s = tasks, bytes_per_s
        self._users: defaultdict[Interface, dict[int, float]] = defaultdict(dict)
        self._left: dict[int, float] = {}  # bytes of the largest load
        self._rate: dict[int, float] = {}
        self._since: dict[int, float] = {}
        self._touched: dict[Interface, None] = {}

    def add(self, number: int, now: float) -> None:
        loads = self._tasks[number].loads
        largest = max(loads.values())
        self._left[number], self._rate[number], self._since[number] = largest, 0.0, now
        for interface, size in loads.items():
            self._users[interface][number] = size / largest
            self._touched[interface] = None

    def remove(self, number: int) -> None:
        for interface in self._tasks[number].loads:
            del self._users[interface][number]
            self._touched[interface] = None
        del self._left[number], self._rate[number], self._since[number]

    def share(self, now: float) -> list[tuple[int, float]]:
        """Share anew among all that the latest changes can reach; returns (number, end) of each
        transfer whose rate has changed."""
        numbers, interfaces = self._reached()
        self._touched.clear()
        changed = []
        for number, rate in self._fill(numbers, interfaces).items():
            if rate == self._rate[number]:
                continue
            self._left[number] -= self._rate[number] * (now - self._since[number])
            self._rate[number], self._since[number] = rate, now
            changed.append((number, now + max(0.0, self._left[number]) / rate))
        return changed

    def _reached(self) -> tuple[dict[int, None], dict[Interface, None]]:
        """Transfers and interfaces joined to the touched ones, in a fixed order."""
        interfaces = dict(self._touched)
        numbers: dict[int, None] = {}
        waiting = list(interfaces)
        while waiting:
            for number in self._users[waiting.pop()]:
                if number in numbers:
                    continue
                numbers[number] = None
                for interface in self._tasks[number].loads:
                    if interface not in interfaces:
                        interfaces[interface] = None
                        waiting.append(interface)
        return numbers, interfaces

    def _fill(self, numbers: Iterable[int], interfaces: Iterable[Interface]) -> dict[int, float]:
        """Progressive filling: the fullest interface fixes its users' rates, then the next one."""
        room = {interface: self._bytes_per_s for interface in interfaces}
        weight = {interface: sum(self._users[interface].values()) for interface in room}
        queue: list[tuple[float, Interface]] = [
            (room[interface] / weight[interface], interface)
            for interface in room
            if weight[interface] > 0
        ]
        heapq.heapify(queue)
        open_numbers = dict.fromkeys(numbers)
        rates: dict[int, float] = {}
        while open_numbers:
            level, bottleneck = heapq.heappop(queue)
            users = [n for n in self._users[bottleneck] if n in open_numbers]
            if not users:
                continue
            current = room[bottleneck] / sum(self._users[bottleneck][n] for n in users)
            if current > level * (1 + 1e-9):  # room was freed since it was queued
                heapq.heappush(queue, (current, bottleneck))
                continue
            for number in users:
                rates[number] = current
                del open_numbers[number]
                for interface in self._tasks[number].loads:
                    room[interface] -= current * self._users[interface][number]
        return rates


class _Simulation:
    """The event loop."""

    def __init__(self, tasks: Sequence[Task], bytes_per_s: float) -> None:
        self._tasks = tasks
        self._transfers = _Transfers(tasks, bytes_per_s)
        self._starts, self._ends = [0.0] * len(tasks), [0.0] * len(tasks)
        self._blockers = [len(set(task.after)) for task in tasks]
        self._followers: list[list[int]] = [[] for _ in tasks]
        for number, task in enumerate(tasks):
            for before in set(task.after):
                self._followers[before].append(number)
        self._queues: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        self._running: set[str] = set()
        self._wire_end: dict[int, float] = {}  # the latest estimate; older events are void
        self._events: list[tuple[float, int, str]] = []
        self._now = 0.0

    def run(self) -> Timeline:
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
        task = self._tasks[number]
        if kind == "wire":
            if self._wire_end.get(number) != time_s:
                return
            del self._wire_end[number]
            self._transfers.remove(number)
            if task.seconds:
                heapq.heappush(self._events, (time_s + task.seconds, number, "end"))
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
        task = self._tasks[number]
        self._starts[number] = self._now
        if task.stream is not None:
            heapq.heappush(self._queues[task.stream], (self._now, number))
            self._next_on(task.stream)
        elif task.loads and max(task.loads.values()) > 0:
            self._transfers.add(number, self._now)
        else:
            heapq.heappush(self._events, (self._now + task.seconds, number, "end"))

    def _next_on(self, stream: str) -> None:
        if stream in self._running or not self._queues[stream]:
            return
        _, number = heapq.heappop(self._queues[stream])
        self._running.add(stream)
        self._starts[number] = self._now
        heapq.heappush(self._events, (self._now + self._tasks[number].seconds, number, "end"))

    def _share(self) -> None:
        for number, end_s in self._transfers.share(self._now):
            self._wire_end[number] = end_s
            heapq.heappush(self._events, (end_s, number, "wire"))
