"""Plays a program on ranks that are held to shares of one machine's cores, behind links.

See [Note: ranks that are held] in `systems.clusters.host`. A message is made of parts:

    sender's thread     begin --+-- its bytes, copied -------------+
    link                        +-- its bytes, and the latency --+ |
    receiver's thread           +-- its bytes, copied ---------+-+-+-- end

What threads do takes core time, and they stand still with their rank; what is on the link goes on.
Of a collective every round is such a message between all of its ranks.

Left out: the kernel looks only at its ticks (every 1 to 4 ms) whether a quota is used up, and lets
the next period pay for what was too much.
"""

import heapq
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from systems.clusters.host import Host
from systems.fair_links import CORES, Resource
from systems.program import Program, Task
from systems.simulation import Simulation, Timeline

QUOTA = "quota"
"""(rank, QUOTA) is what the threads of a rank share while it is held."""


def play_held(program: Program, host: Host) -> Timeline:
    """Play a program whose nodes are the ranks of a host. The tasks of the timeline are those of
    the program."""
    tasks: list[Task] = []
    spans: list[tuple[int, int]] = []
    for task in program.tasks:
        first, after = len(tasks), tuple(spans[number][1] for number in task.after)
        tasks += _placed(task, after, first, host)
        spans.append((first, len(tasks) - 1))
    found = _Held(tasks, host).run()
    return Timeline(
        program.tasks,
        [found.starts_s[first] for first, _ in spans],
        [found.ends_s[last] for _, last in spans],
    )


def thread_seconds(task: Task, host: Host) -> Iterator[tuple[str, str, float, float]]:
    """What a transfer takes of each of its threads: (rank, way, fixed core seconds, core seconds
    for its bytes), over all of its messages."""
    ways = Counter(way for _, way in task.loads)
    cost = host.ring if task.sums else host.message
    for (rank, way), size_bytes in task.loads.items():
        count = task.messages / ways[way]  # every message leaves one node, and reaches another
        yield str(rank), way, cost.fixed_s * count / 2, cost.byte_s * size_bytes / 2


def _placed(task: Task, after: tuple[int, ...], first: int, host: Host) -> Iterator[Task]:
    """The parts of a task, numbered from `first`; the last one ends when all have ended."""
    if task.stream is not None:
        loads = _on_cores(_rank_of(task.stream), (task.stream, "thread"), task.seconds, host)
        yield Task(task.name, after, stream=task.stream, loads=loads, pace_bytes=task.seconds)
    elif not any(task.loads.values()):
        yield Task(task.name, after, seconds=task.seconds)
    else:
        yield from _message(task, after, first, host)


def _message(task: Task, after: tuple[int, ...], first: int, host: Host) -> Iterator[Task]:
    """The parts of a transfer."""
    threads, rounds = list(thread_seconds(task, host)), task.rounds
    number = first

    def on_thread(rank: str, way: str, seconds: float, befores: Sequence[int]) -> Task:
        loads = _on_cores(rank, (f"node {rank}", way), seconds, host)
        return Task(task.name, tuple(befores), loads=loads, pace_bytes=seconds)

    for _ in range(rounds):
        begun = []
        for rank, way, fixed_s, _ in threads:
            if way == "out":
                yield on_thread(rank, way, fixed_s / rounds, after)
                begun.append(number)
                number += 1
        loads: dict[Resource, float] = {}
        if host.bandwidth_bits_per_s is not None:
            loads = {
                (f"link {rank}", way): size_bytes / rounds
                for (rank, way), size_bytes in task.loads.items()
            }
        pace = task.pace_bytes / rounds if loads else 0.0
        yield Task(task.name, tuple(begun), task.stream, task.seconds / rounds, loads, pace)
        crossed, ended = number, []
        number += 1
        for rank, way, fixed_s, byte_s in threads:
            yield on_thread(rank, way, byte_s / rounds, begun)
            ended.append(number)
            number += 1
            if way == "in":
                yield on_thread(rank, way, fixed_s / rounds, (crossed, ended[-1]))
                ended[-1] = number
                number += 1
        yield Task(task.name, (crossed, *ended))
        after = (number,)
        number += 1


def _on_cores(rank: str, thread: Resource, seconds: float, host: Host) -> Mapping[Resource, float]:
    """The loads of core seconds that a thread of a rank needs."""
    if not seconds:
        return {}
    many = host.threads if thread[1] == "thread" else 1
    loads: dict[Resource, float] = {thread: seconds, CORES: seconds * many}
    if host.share is not None:
        loads[rank, QUOTA] = seconds * many
    return loads


def _rank_of(stream: str) -> str:
    """The rank whose stream it is, such as "rank 3 fc" or "server 3"."""
    found = re.search(r"\d+", stream)
    if found is None:
        raise ValueError(f"stream {stream!r} is not that of a rank")
    return found[0]


@dataclass
class _Quota:
    """What a rank has left of its core time in this period."""

    left_s: float
    used_per_s: float | None = 0.0
    """How fast it is used; None: it must be looked at anew."""
    since_s: float = 0.0
    """Since when."""
    spent_at_s: float = math.inf
    """When nothing will be left, at that rate."""
    refilled_at_s: float = math.inf
    """When the next period begins in which there is more; infinity while nothing was used."""


class _Held(Simulation):
    """A simulation with quotas. There are two more kinds of event: a quota is "spent", or
    "refilled". The periods of the ranks begin one after the other, evenly."""

    def __init__(self, tasks: Sequence[Task], host: Host) -> None:
        self._cores, self._period_s = host.cores, host.period_s
        link_bytes_per_s = (host.bandwidth_bits_per_s or math.inf) / 8

        def capacity(resource: Resource) -> float:
            if resource == CORES or resource[1] == QUOTA:
                return host.cores
            return link_bytes_per_s if str(resource[0]).startswith("link ") else 1.0

        super().__init__(tasks, capacity)
        self._quota_s = (host.share or math.inf) * host.period_s
        names = {resource[0] for task in tasks for resource in task.loads if resource[1] == QUOTA}
        self._ranks = sorted(map(str, names), key=int)
        self._quotas = [_Quota(self._quota_s) for _ in self._ranks]

    def _goes_on(self) -> bool:
        return bool(self._events) and self._events[0][0] < math.inf

    def _handle(self, time_s: float, number: int, kind: str) -> None:
        if kind not in ("spent", "refilled"):
            super()._handle(time_s, number, kind)
            return
        quota, resource = self._quotas[number], (self._ranks[number], QUOTA)
        if kind == "spent" and quota.spent_at_s == time_s:
            quota.left_s, quota.used_per_s, quota.since_s = 0.0, None, time_s
            self._transfers.set_rate(resource, 0.0)
        elif kind == "refilled":
            quota.left_s, quota.used_per_s, quota.since_s = self._quota_s, None, time_s
            quota.spent_at_s = quota.refilled_at_s = math.inf
            self._transfers.set_rate(resource, self._cores)

    def _share(self) -> None:
        super()._share()
        for number, (rank, quota) in enumerate(zip(self._ranks, self._quotas, strict=True)):
            used_per_s = self._transfers.used_per_s((rank, QUOTA))
            if used_per_s == quota.used_per_s:
                continue
            quota.left_s -= (quota.used_per_s or 0.0) * (self._now - quota.since_s)
            quota.used_per_s, quota.since_s, quota.spent_at_s = used_per_s, self._now, math.inf
            if used_per_s:
                quota.spent_at_s = self._now + max(0.0, quota.left_s) / used_per_s
                heapq.heappush(self._events, (quota.spent_at_s, number, "spent"))
                if quota.refilled_at_s == math.inf:
                    quota.refilled_at_s = self._next_period_s(number)
                    heapq.heappush(self._events, (quota.refilled_at_s, number, "refilled"))

    def _next_period_s(self, number: int) -> float:
        """When the next period of a rank begins."""
        offset_s = self._period_s * number / len(self._ranks)
        begun = math.floor((self._now - offset_s) / self._period_s + 1e-9)
        return offset_s + (begun + 1) * self._period_s
