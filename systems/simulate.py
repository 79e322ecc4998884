"""A discrete-event simulator: tasks with dependencies on compute streams and on full-duplex links.

    program = Program()
    forward = program.compute("rank 0", 0.010, name="forward")
    program.flow(0, 1, size_bytes=4e6, name="activations", after=[forward])
    timeline = simulate(program, Link(bandwidth_bits_per_s=10e9, latency_s=50e-6))

A compute stream runs one task at a time, in the order in which tasks become ready (ties: in the
order in which they were added). Transfers share links as `systems.fair_links` explains; the switch
between the nodes does not block. A transfer's latency follows its last byte. The simulator is
deterministic. It knows tasks, not systems.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from systems.clusters.cluster import Link
from systems.fair_links import Interface, Transfers

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
    loads: Mapping[Interface, float] = field(default_factory=dict)
    """Bytes that a transfer moves through each interface; all of them progress together."""
    rounds: int = 1
    """How many messages follow one another in a transfer."""
    sums: bool = False
    """Whether a transfer is an all-reduce."""


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
        name: str = "",
        after: Iterable[int] = (),
    ) -> int:
        """Add a message of `size_bytes` from the node `source` to the node `target`."""
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
        """Add a balanced collective: every node sends and receives `size_bytes`, at one pace.

        Args:
            messages: how many messages follow one another in it, each with its latency.
        """
        loads = {(node, way): size_bytes for node in nodes for way in ("out", "in")}
        return self.transfer(loads, messages=messages, name=name, after=after)

    def all_reduce(
        self, nodes: Sequence[int], size_bytes: float, *, name: str = "", after: Iterable[int] = ()
    ) -> int:
        """Add a ring all-reduce of `size_bytes`.

        Each of the n nodes cuts its bytes into n parts and hands one on to the next node, 2 (n - 1)
        times: first the sums of the parts travel, then their results. One node alone does nothing.
        """
        n = len(nodes)
        moved_bytes, rounds = 2 * size_bytes * (n - 1) / n, 2 * (n - 1)
        loads = {(node, way): moved_bytes for node in nodes for way in ("out", "in")}
        return self.transfer(loads, messages=rounds, sums=True, name=name, after=after)

    def transfer(
        self,
        loads: Mapping[Interface, float],
        *,
        messages: int = 1,
        sums: bool = False,
        name: str = "",
        after: Iterable[int] = (),
    ) -> int:
        """Add messages that progress together, such as one worker's slices to several servers.

        Args:
            loads: the bytes that they move through each interface.
            messages: how many messages follow one another, each with its latency.
            sums: whether they are an all-reduce.
        """
        seconds = messages * self._latency_s
        return self._add(Task(name, tuple(after), None, seconds, loads, messages, sums))

    def _add(self, task: Task) -> int:
        """Add a task whose predecessors are there already; returns its number."""
        if any(not 0 <= number < len(self.tasks) for number in task.after):
            raise ValueError(f"task {task.name!r} depends on one that has not been added yet")
        self.tasks.append(task)
        return len(self.tasks) - 1


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


def simulate(program: Program, link: Link) -> Timeline:
    """Play a program on nodes whose interfaces all have the rate of `link`.

    The latency of `link` is not read: the program has its own.

    Raises:
        InputError: the rate of the link is not known.
    """
    bytes_per_s = 1.0 / link.seconds(1.0)
    return Simulation(program.tasks, lambda interface: bytes_per_s).run()


class Simulation:
    """The event loop: it goes from one end of a task to the next.

    An event is (second, number of a task, kind). "wire": the last byte of a transfer has arrived.
    "end": the task has ended; of a transfer that is one latency later.
    """

    def __init__(self, tasks: Sequence[Task], capacity: Callable[[Interface], float]) -> None:
        """Nothing has happened yet.

        Args:
            capacity: the rate of an interface, in bytes/s.
        """
        self._tasks = tasks
        self._transfers = Transfers([task.loads for task in tasks], capacity)
        self._starts, self._ends = [0.0] * len(tasks), [0.0] * len(tasks)
        # How many tasks each one still waits for, and which tasks wait for it.
        self._blockers = [len(set(task.after)) for task in tasks]
        self._followers: list[list[int]] = [[] for _ in tasks]
        for number, task in enumerate(tasks):
            for before in set(task.after):
                self._followers[before].append(number)
        # By compute stream: the tasks that are ready for it, first those that were ready first.
        self._queues: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        self._running: set[str] = set()
        # By transfer: when its last byte will arrive at its present rate. A change of the rate
        # makes a new "wire" event; the older ones, which name another second, are void.
        self._wire_end: dict[int, float] = {}
        self._events: list[tuple[float, int, str]] = []
        self._now = 0.0

    def run(self) -> Timeline:
        """Play all tasks."""
        for number, blockers in enumerate(self._blockers):
            if not blockers:
                self._begin(number)
        self._share()
        while self._goes_on():
            self._now = self._events[0][0]
            while self._events and self._events[0][0] <= self._now + SAME_TIME_S:
                self._handle(*heapq.heappop(self._events))
            self._share()
        return Timeline(self._tasks, self._starts, self._ends)

    def _goes_on(self) -> bool:
        """Whether there is something left to play."""
        return bool(self._events)

    def _computed_s(self, task: Task) -> float:
        """The second at which a computation ends that begins now."""
        return self._now + task.seconds

    def _handle(self, time_s: float, number: int, kind: str) -> None:
        """Something has happened to a task: begin what has waited for it."""
        task = self._tasks[number]
        if kind == "wire":
            if self._wire_end.get(number) != time_s:  # void: its rate has changed since
                return
            del self._wire_end[number]
            self._transfers.remove(number)
            if task.seconds:
                heapq.heappush(self._events, (time_s + task.seconds, number, "end"))
                return
        self._end(number, time_s)

    def _end(self, number: int, time_s: float) -> None:
        """A task has ended."""
        stream = self._tasks[number].stream
        if stream is not None:
            self._running.discard(stream)
            self._next_on(stream)
        self._ends[number] = time_s
        for follower in self._followers[number]:
            self._blockers[follower] -= 1
            if not self._blockers[follower]:
                self._begin(follower)

    def _begin(self, number: int) -> None:
        """All tasks that a task has waited for have ended."""
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
        """Run the next task of a compute stream, if the stream is free and has one."""
        if stream in self._running or not self._queues[stream]:
            return
        _, number = heapq.heappop(self._queues[stream])
        self._running.add(stream)
        self._starts[number] = self._now
        heapq.heappush(self._events, (self._computed_s(self._tasks[number]), number, "end"))

    def _share(self) -> None:
        """Share the links anew, and note when transfers will end at their new rates."""
        for number, end_s in self._transfers.share(self._now):
            self._wire_end[number] = end_s
            heapq.heappush(self._events, (end_s, number, "wire"))
