"""The event loop of the simulator, which `systems.simulate` starts, and what it finds."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from systems.fair_links import Resource, Transfers
from systems.program import Task

SAME_TIME_S = 1e-12
"""Events this close happen at once: equal workers stay in step in spite of rounding."""


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


class Simulation:
    """The event loop: it goes from one end of a task to the next.

    A task first moves its loads, if it has any, and then waits for some seconds: a transfer for its
    latency, a computation that shares nothing for as long as it takes. An event is (second, number
    of a task, kind). "moved": a task has moved its loads. "end": the task has ended.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        capacity: Callable[[Resource], float],
        *,
        loads: Sequence[Mapping[Resource, float]] | None = None,
        paces: Sequence[float] | None = None,
        waits_s: Sequence[float] | None = None,
    ) -> None:
        """Nothing has happened yet.

        Args:
            capacity: what a resource moves in a second.
            loads: what each task moves through every resource, in bytes or seconds of core time;
                None: what the task says. The same goes for the two below.
            paces: that of its largest load, see `Transfers`.
            waits_s: the seconds that it waits after that.
        """
        loads = [task.loads for task in tasks] if loads is None else loads
        paces = [task.pace_bytes for task in tasks] if paces is None else paces
        waits_s = [task.seconds for task in tasks] if waits_s is None else waits_s
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
        while self._goes_on():
            self._now = self._events[0][0]
            while self._events and self._events[0][0] <= self._now + SAME_TIME_S:
                self._handle(*heapq.heappop(self._events))
            self._share()
        return Timeline(self._tasks, self._starts, self._ends)

    def _goes_on(self) -> bool:
        """Whether there is something left to play."""
        return bool(self._events)

    def _waited_s(self, number: int) -> float:
        """The second at which a task ends that begins now and moves nothing."""
        return self._now + self._waits_s[number]

    def _handle(self, time_s: float, number: int, kind: str) -> None:
        """Something has happened to a task: begin what has waited for it."""
        if kind == "moved":
            if self._moved.get(number) != time_s:  # void: its rate has changed since
                return
            del self._moved[number]
            self._transfers.remove(number)
            if self._waits_s[number]:
                heapq.heappush(self._events, (time_s + self._waits_s[number], number, "end"))
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
            heapq.heappush(self._events, (self._waited_s(number), number, "end"))

    def _share(self) -> None:
        """Share links or cores anew, and note when tasks will have moved their loads."""
        for number, end_s in self._transfers.share(self._now):
            self._moved[number] = end_s
            heapq.heappush(self._events, (end_s, number, "moved"))
