"""Programs for the simulator: tasks with dependencies, on compute streams and on links.

    program = Program()
    forward = program.compute("rank 0", 0.010, name="forward")
    program.flow(0, 1, size_bytes=4e6, name="activations", after=[forward])

`systems.simulate` plays them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from systems.fair_links import Resource

NO_LOADS: Mapping[Resource, float] = {}
"""The loads of what is no transfer: one mapping for all tasks."""


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
    rounds: int = 1
    """How many messages follow one another in a transfer."""
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
        loads = _both_ways(nodes, rounds * size_bytes / n)
        count = rounds * n
        return self.transfer(loads, messages=rounds, count=count, sums=True, name=name, after=after)

    def transfer(
        self,
        loads: Mapping[Resource, float],
        *,
        messages: int = 1,
        count: int | None = None,
        pace_bytes: float | None = None,
        sums: bool = False,
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
            sums: whether they are an all-reduce.
        """
        return self._add(
            Task(
                name,
                tuple(after),
                seconds=messages * self._latency_s,
                loads=loads,
                pace_bytes=max(loads.values(), default=0.0) if pace_bytes is None else pace_bytes,
                rounds=messages,
                messages=messages if count is None else count,
                sums=sums,
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
