"""The order in which ranks that hold several stages (virtual stages) take turns at them.

The picture shows four stages on two ranks: rank 0 holds stages 0 and 2, rank 1 holds 1 and 3. A
number is the forward pass of a mini-batch, `a` is the backward pass of mini-batch 0.

    rank 0    0 1 0 1 2 a 3 . 2 b a 4 3 c b 5     the second 0 is mini-batch 0 at stage 2
    rank 1    . 0 1 0 a 1 b 2 a 2 c 3 b 3 d 4     the first a is its backward pass at stage 3

Every stage has a fixed list of computations, and a rank must merge the lists of its stages into
one. It does so as a rank would that decides while it runs: all lists are played in time, and a rank
that is free takes the computation that can begin first among the next ones of its stages. The order
that results never deadlocks: each computation was placed after those that it needs had been played,
so ranks cannot wait for each other in a circle.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Phase = Literal["forward", "backward", "update"]


@dataclass(frozen=True, slots=True)
class Computation:
    """A forward pass, a backward pass or an update of one stage."""

    phase: Phase
    """What is computed."""
    stage: int
    """The number of the stage."""
    micro_batch: int
    """The number of the micro-batch in the whole run."""
    together: bool = False
    """Whether all replicas must begin it at once: an update for which they exchange gradients."""


def interleave(
    lists: Sequence[Sequence[Computation]],
    stages: Sequence[Sequence[int]],
    seconds: Sequence[tuple[float, float]],
    crossing_s: Sequence[float],
) -> list[Sequence[Computation]]:
    """Merge the lists of the stages into one list for every rank.

    Where every rank holds one stage there is nothing to merge, and replicas get the same list.

    Args:
        lists: the computations of every stage, the same for all of its replicas.
        stages: the ranks that hold each stage.
        seconds: how long (forward, backward) of each stage take.
        crossing_s: how long a message takes from each stage but the last to the next, or back.
    """
    stages_of: defaultdict[int, list[int]] = defaultdict(list)
    for stage, ranks in enumerate(stages):
        for rank in ranks:
            stages_of[rank].append(stage)
    if all(len(numbers) == 1 for numbers in stages_of.values()):
        return [
            lists[stages_of[rank][0]] if rank in stages_of else []
            for rank in range(1 + max(stages_of))
        ]
    return list(_Merge(lists, stages, seconds, crossing_s).play())


class _Merge:
    """The state of all ranks while the lists are played."""

    def __init__(
        self,
        lists: Sequence[Sequence[Computation]],
        stages: Sequence[Sequence[int]],
        seconds: Sequence[tuple[float, float]],
        crossing_s: Sequence[float],
    ) -> None:
        self._lists, self._stages = lists, stages
        self._seconds, self._crossing_s = seconds, crossing_s
        ranks = 1 + max(map(max, stages))
        self._ordered: list[list[Computation]] = [[] for _ in range(ranks)]
        self._free_s = [0.0] * ranks
        # The position in a stage's list at which each of its ranks is.
        self._next = {
            (stage, rank): 0 for stage, replicas in enumerate(stages) for rank in replicas
        }
        # (phase, stage, micro-batch) -> how many replicas are done, and when the last one was
        self._done: defaultdict[tuple[str, int, int], tuple[int, float]] = defaultdict(
            lambda: (0, 0.0)
        )

    def play(self) -> list[list[Computation]]:
        """Take the computation that can begin first until none is left; the list of each rank."""
        while True:
            choices = [c for key in self._next if (c := self._choice(*key)) is not None]
            if not choices:
                return self._ordered
            start_s, _, _, rank, computation = min(choices, key=lambda choice: choice[:4])
            self._take(
                computation,
                self._stages[computation.stage] if computation.together else (rank,),
                start_s,
            )

    def _choice(self, stage: int, rank: int) -> tuple[float, int, int, int, Computation] | None:
        """A stage's next computation on a rank and when it can begin; None if not known yet.

        The tuple sorts by time. Among equals an update comes first, then a backward pass, since
        they free memory, and the later stage comes before the earlier one.
        """
        index = self._next[stage, rank]
        if index == len(self._lists[stage]):
            return None
        computation, start_s = self._lists[stage][index], self._free_s[rank]
        if computation.together:
            replicas = self._stages[stage]
            if any(self._next[stage, other] != index for other in replicas):
                return None
            start_s = max(self._free_s[other] for other in replicas)
        for phase, neighbour in _needs(computation, len(self._stages)):
            count, end_s = self._done[phase, neighbour, computation.micro_batch]
            if count < len(self._stages[neighbour]):
                return None
            start_s = max(start_s, end_s + self._crossing_s[min(stage, neighbour)])
        order = ("update", "backward", "forward").index(computation.phase)
        return start_s, order, -stage, rank, computation

    def _take(self, computation: Computation, ranks: Sequence[int], start_s: float) -> None:
        """Append a computation to the lists of `ranks`, and advance their clocks."""
        forward_s, backward_s = self._seconds[computation.stage]
        lasts_s = {"forward": forward_s, "backward": backward_s, "update": 0.0}[computation.phase]
        key = (computation.phase, computation.stage, computation.micro_batch)
        for rank in ranks:
            self._ordered[rank].append(computation)
            self._next[computation.stage, rank] += 1
            self._free_s[rank] = start_s + lasts_s
            count, end_s = self._done[key]
            self._done[key] = (count + 1, max(end_s, start_s + lasts_s))


def _needs(computation: Computation, stages: int) -> list[tuple[Phase, int]]:
    """The computations of neighbouring stages, as (phase, stage), that must be done before it."""
    if computation.phase == "forward" and computation.stage > 0:
        return [("forward", computation.stage - 1)]
    if computation.phase == "backward" and computation.stage < stages - 1:
        return [("backward", computation.stage + 1)]
    return []
