"""Simulate a schedule: how fast a pipeline is, found without starting any process.

    pipeline = play(schedule, costs, Link(bandwidth_bits_per_s=10e9, latency_s=50e-6))
    pipeline.step_s, pipeline.utilisation(rank)

`sparsepipe.schedule.tasks` says what the actions become in the simulator. Replicas that cannot
differ are played once, see `sparsepipe.schedule.pipeline_classes`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from sparsepipe.schedule.costs import StageCost
from sparsepipe.schedule.lists import Schedule
from sparsepipe.schedule.pipeline_classes import pipeline_classes
from sparsepipe.schedule.tasks import ScheduleTasks
from systems.clusters.cluster import Link
from systems.clusters.topology import Topology
from systems.faulty import simulate_on
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
    tasks = ScheduleTasks(schedule, costs, network.latency_s, classes)
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
