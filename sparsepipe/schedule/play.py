"""Simulate a schedule: how fast a pipeline is, found without starting any process.

    pipeline = play(schedule, costs, Link(bandwidth_bits_per_s=10e9, latency_s=50e-6))
    pipeline.step_s, pipeline.utilisation(rank)

Sends and receives overlap computation. A backward pass that an all-reduce follows is cut into equal
parts: the gradients of one part are exchanged while the next part is computed, as in the runtime.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparsepipe.schedule.costs import StageCost, overlaps
from sparsepipe.schedule.lists import ALL_REDUCE_PARTS, Action, ActionKind, Schedule
from systems.clusters.cluster import Link
from systems.clusters.topology import Topology
from systems.faulty import simulate_on
from systems.schema import InputError
from systems.simulate import Program, Timeline


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
    """The computations of all ranks, each rank's in the order of its list."""
    window: tuple[int, int]
    """The mini-batches [first, end) of the steady state."""

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
        """The part of the steady state during which a rank computes, from 0 to 1."""
        start_s, end_s = self.steady_s()
        busy_s = sum(
            max(0.0, min(span.end_s, end_s) - max(span.start_s, start_s))
            for span in self.spans
            if span.rank == rank
        )
        return busy_s / (end_s - start_s)

    def _spans_of(self, mini_batch: int) -> Iterator[Span]:
        """The computations of one mini-batch."""
        micro = self.schedule.micro_batches
        return (span for span in self.spans if span.micro_batch // micro == mini_batch)

    def _end_s(self, mini_batch: int) -> float:
        """When a mini-batch ends on all ranks; 0 for the one before the first."""
        return max((span.end_s for span in self._spans_of(mini_batch)), default=0.0)

    def _start_s(self, mini_batch: int) -> float:
        """When a mini-batch begins."""
        return min(span.start_s for span in self._spans_of(mini_batch))


def play(
    schedule: Schedule, costs: Sequence[StageCost], network: Link | Topology
) -> PlayedSchedule:
    """Simulate a schedule that has enough mini-batches for a steady state.

    Args:
        costs: what a micro-batch costs at each stage.
        network: the link of every rank to the others, or the links of a topology.

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
    tasks = _Tasks(schedule, costs, network.latency_s)
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
    return PlayedSchedule(schedule, timeline, spans, window)


class _Tasks:
    """Turns the lists of all ranks into tasks of a `Program` of the simulator.

    A task can only name earlier tasks as those that it waits for. So the lists are walked side by
    side, and a rank whose next action needs a task that is not there yet is left until it is.
    """

    def __init__(self, schedule: Schedule, costs: Sequence[StageCost], latency_s: float) -> None:
        self.program = Program(latency_s)
        self._schedule, self._costs = schedule, costs
        # For each rank, the tasks that its next action must wait for.
        self._last: list[list[int]] = [[] for _ in schedule.ranks]
        # The messages by (kind, sending stage, micro-batch, receiver), and all-reduces likewise.
        self._arrived: dict[tuple[ActionKind, int, int, int], list[int]] = {}
        # The last message of each channel, which keeps its messages in order.
        self._wire: dict[tuple[ActionKind, int, int, int], int] = {}
        # The parts of a backward pass that an all-reduce follows, by (stage, micro-batch, rank).
        self._parts: dict[tuple[int, int, int], list[int]] = {}
        self._work: list[tuple[int, Action, list[int]]] = []

    def add_all(self) -> list[tuple[int, Action, list[int]]]:
        """Add the tasks of all actions; returns each computation's rank, action and tasks."""
        position = [0] * len(self._schedule.ranks)
        moved = True
        while moved:
            moved = False
            for rank, actions in enumerate(self._schedule.ranks):
                while position[rank] < len(actions) and self._add(rank, actions[position[rank]]):
                    position[rank] += 1
                    moved = True
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
        cost, replica = self._costs[action.stage], self._schedule.stages[action.stage].index(rank)
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
        common = overlaps(self._costs[action.stage].shares, self._costs[target].shares)
        mine = common[self._schedule.stages[action.stage].index(rank)]
        for peer, part in zip(self._schedule.stages[target], mine, strict=True):
            if part <= 0:
                continue
            channel = (action.kind, action.stage, rank, peer)
            after = [*self._last[rank], *([self._wire[channel]] if channel in self._wire else [])]
            if peer == rank:
                number = self.program.join(after)
            else:
                number = self.program.flow(
                    rank, peer, part * size, name=f"{action.kind} {action.micro_batch}", after=after
                )
            self._wire[channel] = number
            key = (action.kind, action.stage, action.micro_batch, peer)
            self._arrived.setdefault(key, []).append(number)

    def _receive(self, rank: int, action: Action) -> bool:
        """Make the rank wait for its messages; False if not all of them have been added."""
        gradient = action.kind is ActionKind.RECEIVE_GRADIENT
        sent = ActionKind.SEND_GRADIENT if gradient else ActionKind.SEND_ACTIVATION
        source = action.stage + (1 if gradient else -1)
        replica = self._schedule.stages[action.stage].index(rank)
        common = overlaps(self._costs[action.stage].shares, self._costs[source].shares)
        expected = sum(part > 0 for part in common[replica])
        arrived = self._arrived.get((sent, source, action.micro_batch, rank), [])
        if len(arrived) < expected:
            return False
        self._last[rank] = [*self._last[rank], *arrived]
        return True

    def _reduce(self, rank: int, action: Action) -> bool:
        """Make the rank wait for the all-reduce; False if not all replicas went backward.

        The first replica that gets here adds the exchanges of all parts, for all replicas.
        """
        ranks = self._schedule.stages[action.stage]
        parts = [self._parts.get((action.stage, action.micro_batch, peer)) for peer in ranks]
        if any(part is None for part in parts):
            return False
        key = (ActionKind.REDUCE, action.stage, action.micro_batch, -1)
        if key not in self._arrived:
            size = self._costs[action.stage].parameter_bytes / ALL_REDUCE_PARTS
            before = (ActionKind.REDUCE, action.stage, -1, -1)
            done = [self._wire[before]] if before in self._wire else []
            for ready in zip(*(part or [] for part in parts), strict=True):
                done = [
                    self.program.all_reduce(
                        ranks, size, name=f"reduce {action.micro_batch}", after=[*ready, *done]
                    )
                ]
            self._arrived[key], self._wire[before] = done, done[0]
        self._last[rank] = [*self._last[rank], *self._arrived[key]]
        return True
