"""Simulate a schedule: how fast a pipeline is, found without starting any process.

    pipeline = play(schedule, costs, Link(bandwidth_bits_per_s=10e9, latency_s=50e-6))
    pipeline.step_s, pipeline.utilisation(rank)

Sends and receives overlap computation. A backward pass that an all-reduce follows is cut into equal
parts: the gradients of one part are exchanged while the next part is computed, as in the runtime.
Replicas that cannot differ are played once, see `sparsepipe.schedule.pipeline_classes`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from sparsepipe.schedule.costs import StageCost
from sparsepipe.schedule.lists import ALL_REDUCE_PARTS, Action, ActionKind, Schedule
from sparsepipe.schedule.pipeline_classes import PipelineClasses, pipeline_classes
from systems.clusters.cluster import Link
from systems.clusters.topology import Topology
from systems.faulty import simulate_on
from systems.program import Program
from systems.rank_classes import RankClass, titled
from systems.schema import InputError
from systems.simulation import Timeline


@dataclass(frozen=True)
class Span:
    """A computation of a rank and when it took place, in seconds from the beginning."""

    rank: int
    """The rank that computes."""
    action: str
    """The kind of action, such as "forward"."""
    stage: int
    """The number of the stage."""
    micro_batch: int
    """The number of the micro-batch in the whole run."""
    start_s: float
    """When it begins."""
    end_s: float
    """When it ends."""


@dataclass(frozen=True)
class PlayedSchedule:
    """A schedule and the times at which everything in it happened."""

    schedule: Schedule
    """The schedule that was simulated."""
    timeline: Timeline
    """All tasks of the simulation, messages included."""
    spans: tuple[Span, ...]
    """The computations of the ranks that were played, each rank's in the order of its list."""
    window: tuple[int, int]
    """The mini-batches [first, end) of the steady state."""
    classes: Sequence[RankClass]
    """The classes of interchangeable ranks, of which one rank each was played."""

    @property
    def step_s(self) -> float:
        """Seconds from one mini-batch to the next in the steady state."""
        first, end = self.window
        return (self._end_s(end - 1) - self._end_s(first - 1)) / (end - first)

    @property
    def mean_step_s(self) -> float:
        """Seconds of all mini-batches, filling and draining included, over their number. There is
        no steady state where faults come and go."""
        return self.timeline.end_s / self.schedule.mini_batches

    @property
    def latency_s(self) -> float:
        """Mean seconds from the beginning of a mini-batch to its end, in the steady state."""
        first, end = self.window
        return sum(self._end_s(m) - self._start_s(m) for m in range(first, end)) / (end - first)

    def steady_s(self) -> tuple[float, float]:
        """When the steady state begins and when it ends, in seconds."""
        return self._end_s(self.window[0] - 1), self._end_s(self.window[1] - 1)

    def utilisation(self, rank: int) -> float:
        """The part of the steady state during which a rank computes, from 0 to 1; 0 if it holds no
        stage."""
        start_s, end_s = self.steady_s()
        busy_s = sum(
            max(0.0, min(span.end_s, end_s) - max(span.start_s, start_s))
            for span in self._spans_of.get(self._played.get(rank, -1), ())
        )
        return busy_s / (end_s - start_s)

    def trace(self) -> Iterator[tuple[str, str, float, float]]:
        """The spans of a trace, messages included: (track, name, start, end) in seconds."""
        return titled(self.timeline.spans(), self.classes)

    @cached_property
    def _played(self) -> dict[int, int]:
        """For each rank that holds a stage, the one that was played for it."""
        return {rank: one.played for one in self.classes for rank in one.ranks}

    @cached_property
    def _spans_of(self) -> dict[int, list[Span]]:
        """The computations by played rank."""
        spans: defaultdict[int, list[Span]] = defaultdict(list)
        for span in self.spans:
            spans[span.rank].append(span)
        return spans

    @cached_property
    def _lasts_s(self) -> dict[int, tuple[float, float]]:
        """When each mini-batch begins on the first rank, and ends on the last one."""
        found: dict[int, tuple[float, float]] = {}
        for span in self.spans:
            mini_batch = span.micro_batch // self.schedule.micro_batches
            start_s, end_s = found.get(mini_batch, (span.start_s, span.end_s))
            found[mini_batch] = min(start_s, span.start_s), max(end_s, span.end_s)
        return found

    def _end_s(self, mini_batch: int) -> float:
        """When a mini-batch ends on all ranks; 0 for the one before the first."""
        return self._lasts_s[mini_batch][1] if mini_batch >= 0 else 0.0

    def _start_s(self, mini_batch: int) -> float:
        """When a mini-batch begins."""
        return self._lasts_s[mini_batch][0]


def play(
    schedule: Schedule,
    costs: Sequence[StageCost],
    network: Link | Topology,
    *,
    every_rank: bool = False,
) -> PlayedSchedule:
    """Simulate a schedule that has enough mini-batches for a steady state.

    Args:
        costs: what a micro-batch costs at each stage.
        network: the link of every rank to the others, or the links of a topology.
        every_rank: plays each rank, also those that cannot differ; the result is the same. On a
            topology, where ranks have unequal links, all are always played so.

    Raises:
        InputError: too few mini-batches, or costs that do not fit the stages.
    """
    edge = -(-max(schedule.in_flight) // schedule.micro_batches)
    window = (edge, schedule.mini_batches - edge)
    if window[1] - window[0] < 1:
        raise InputError(
            f"--mini-batches {schedule.mini_batches}: give at least {2 * edge + 1}, so that "
            "the pipeline is full for one"
        )
    for stage, (cost, ranks) in enumerate(zip(costs, schedule.stages, strict=True)):
        if not len(cost.forward_s) == len(cost.backward_s) == len(cost.shares) == len(ranks):
            raise InputError(f"stage {stage}: costs for {len(cost.shares)} of {len(ranks)} ranks")
    every_rank = every_rank or not isinstance(network, Link)
    classes = pipeline_classes(schedule.stages, costs, every_rank=every_rank)
    tasks = _Tasks(schedule, costs, network.latency_s, classes)
    computed = tasks.add_all()
    timeline = simulate_on(tasks.program, network)
    spans = tuple(
        Span(
            rank,
            action.kind.value,
            action.stage,
            action.micro_batch,
            timeline.starts_s[parts[0]],
            timeline.ends_s[parts[-1]],
        )
        for rank, action, parts in computed
    )
    return PlayedSchedule(schedule, timeline, spans, window, classes.classes)


class _Tasks:
    """Turns the lists of the played ranks into tasks of a `Program` of the simulator.

    A task can only name earlier tasks as those that it waits for. So the lists are walked side by
    side, and a rank whose next action needs a task that is not there yet is left until it is.
    """

    def __init__(
        self,
        schedule: Schedule,
        costs: Sequence[StageCost],
        latency_s: float,
        classes: PipelineClasses,
    ) -> None:
        self.program = Program(latency_s)
        self._schedule, self._costs, self._classes = schedule, costs, classes
        # The place of each played rank among the replicas of each of its stages.
        self._replica = {
            (stage, rank): place
            for stage, ranks in enumerate(schedule.stages)
            for place, rank in enumerate(ranks)
        }
        # For each played rank, the tasks that its next action must wait for.
        self._last: dict[int, list[int]] = {one.played: [] for one in classes.classes}
        # The messages by (kind, sending stage, micro-batch, receiver), and all-reduces likewise.
        self._arrived: dict[tuple[ActionKind, int, int, int], list[int]] = {}
        # The last message of each channel, which keeps its messages in order.
        self._wire: dict[tuple[ActionKind, int, int, int], int] = {}
        # The parts of a backward pass that an all-reduce follows, by (stage, micro-batch, rank).
        self._parts: dict[tuple[int, int, int], list[int]] = {}
        self._work: list[tuple[int, Action, list[int]]] = []

    def add_all(self) -> list[tuple[int, Action, list[int]]]:
        """Add the tasks of all actions; returns each computation's rank, action and tasks."""
        left = {rank: iter(self._schedule.ranks[rank]) for rank in self._last}
        following = {rank: next(actions, None) for rank, actions in left.items()}
        moved = True
        while moved:
            moved = False
            for rank in list(following):
                action = following[rank]
                while action is not None and self._add(rank, action):
                    action = next(left[rank], None)
                    moved = True
                following[rank] = action
                if action is None:
                    del following[rank]
        return self._work

    def _add(self, rank: int, action: Action) -> bool:
        """Add the tasks of one action; False if a task that it waits for is not there yet."""
        if action.kind in (ActionKind.FORWARD, ActionKind.BACKWARD):
            self._compute(rank, action)
        elif action.kind in (ActionKind.SEND_ACTIVATION, ActionKind.SEND_GRADIENT):
            self._send(rank, action)
        elif action.kind is ActionKind.REDUCE:
            return self._reduce(rank, action)
        elif action.kind is not ActionKind.UPDATE:  # which takes no time
            return self._receive(rank, action)
        return True

    def _compute(self, rank: int, action: Action) -> None:
        """Add a forward or backward pass; in parts if an all-reduce follows it."""
        cost, replica = self._costs[action.stage], self._replica[action.stage, rank]
        backward = action.kind is ActionKind.BACKWARD
        seconds = (cost.backward_s if backward else cost.forward_s)[replica]
        last = (action.micro_batch + 1) % self._schedule.micro_batches == 0
        reduced = backward and last and len(self._schedule.stages[action.stage]) > 1
        parts: list[int] = []
        count = ALL_REDUCE_PARTS if reduced else 1
        name = f"{action.kind} {action.micro_batch}"
        for _ in range(count):
            after = parts[-1:] or self._last[rank]
            parts.append(
                self.program.compute(f"rank {rank}", seconds / count, name=name, after=after)
            )
        if reduced:
            self._parts[action.stage, action.micro_batch, rank] = parts
        self._last[rank] = parts[-1:]
        self._work.append((rank, action, parts))

    def _send(self, rank: int, action: Action) -> None:
        """Add a message to each replica of the other stage that shares samples with this one."""
        forward = action.kind is ActionKind.SEND_ACTIVATION
        target = action.stage + (1 if forward else -1)
        cut = self._costs[min(action.stage, target)]
        size = cut.output_bytes if forward else cut.gradient_bytes
        name = f"{action.kind} {action.micro_batch}"
        messages = self._classes.messages[action.stage, target, rank]
        for place, one in enumerate(messages):
            channel = (action.kind, action.stage, rank, place)
            after = [*self._last[rank], *([self._wire[channel]] if channel in self._wire else [])]
            if one.own:
                number = self.program.join(after)
            else:
                number = self.program.flow(
                    rank,
                    one.target,
                    one.part * size,
                    sent=one.sent,
                    received=one.received,
                    name=name,
                    after=after,
                )
            self._wire[channel] = number
            key = (action.kind, action.stage, action.micro_batch, one.target)
            self._arrived.setdefault(key, []).append(number)

    def _receive(self, rank: int, action: Action) -> bool:
        """Make the rank wait for its messages; False if not all of them have been added."""
        gradient = action.kind is ActionKind.RECEIVE_GRADIENT
        sent = ActionKind.SEND_GRADIENT if gradient else ActionKind.SEND_ACTIVATION
        source = action.stage + (1 if gradient else -1)
        arrived = self._arrived.get((sent, source, action.micro_batch, rank), [])
        if len(arrived) < self._classes.expected[action.stage, source, rank]:
            return False
        self._last[rank] = [*self._last[rank], *arrived]
        return True

    def _reduce(self, rank: int, action: Action) -> bool:
        """Make the rank wait for the all-reduce; False if not all replicas went backward.

        The first replica that gets here adds the exchanges of all parts, for all replicas.
        """
        ranks = self._classes.of_stage[action.stage]
        parts = [self._parts.get((action.stage, action.micro_batch, peer)) for peer in ranks]
        if any(part is None for part in parts):
            return False
        key = (ActionKind.REDUCE, action.stage, action.micro_batch, -1)
        if key not in self._arrived:
            size = self._costs[action.stage].parameter_bytes / ALL_REDUCE_PARTS
            before = (ActionKind.REDUCE, action.stage, -1, -1)
            done = [self._wire[before]] if before in self._wire else []
            name, replicas = (
                f"reduce {action.micro_batch}",
                len(self._schedule.stages[action.stage]),
            )
            for ready in zip(*(part or [] for part in parts), strict=True):
                done = [
                    self.program.all_reduce(
                        ranks, size, ranks=replicas, name=name, after=[*ready, *done]
                    )
                ]
            self._arrived[key], self._wire[before] = done, done[0]
        self._last[rank] = [*self._last[rank], *self._arrived[key]]
        return True
