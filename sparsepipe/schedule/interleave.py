"""The order in which ranks with several stages take turns at them.

Every stage has a fixed list of computations. Played in time, a rank that is free takes, of the
next ones of its stages, the one that can begin first. What was played once can be run: the order
in which things began is one in which nothing waits for something later, so no rank can wait for
another in a circle.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Phase = Literal["forward", "backward", "update"]


@dataclass(frozen=True, slots=True)
class Computation:
    """A computation of one stage."""

    phase: Phase
    stage: int
    micro_batch: int
    together: bool = False
    """An update that all replicas begin at once, as they exchange gradients."""


def interleave(
    lists: Sequence[Sequence[Computation]],
    stages: Sequence[Sequence[int]],
    seconds: Sequence[tuple[float, float]],
    crossing_s: Sequence[float],
) -> list[list[Computation]]:
    """The list of every rank: those of its stages, merged.

    Args:
        lists: of every stage, the same for all of its replicas.
        stages: the ranks of every stage.
        seconds: forward and backward of every stage.
        crossing_s: of a message from every stage but the last to the next, or back.
    """
    stages_of: defaultdict[int, list[int]] = defaultdict(list)
    for stage, ranks in enumerate(stages):
        for rank in ranks:
            stages_of[rank].append(stage)
    if all(len(held) == 1 for held in stages_of.values()):
        return [
            [item for stage in stages_of[rank] for item in lists[stage]]
            for rank in range(1 + max(stages_of))
        ]
    return _Play(lists, stages, seconds, crossing_s).run()


class _Play:
    def __init__(
        self,
        lists: Sequence[Sequence[Computation]],
        stages: Sequence[Sequence[int]],
        seconds: Sequence[tuple[float, float]],
        crossing_s: Sequence[float],
    ) -> None:
        self._lists, self._stages = lists, stages
        self._seconds, self._crossing_s = seconds, crossing_s
        ranks = 1 + max(rank for held in stages for rank in held)
        self._ordered: list[list[Computation]] = [[] for _ in range(ranks)]
        self._free_s = [0.0] * ranks
        self._next = {(stage, rank): 0 for stage, held in enumerate(stages) for rank in held}
        # (phase, stage, micro-batch) -> how many replicas are done, and when the last one was
        self._done: defaultdict[tuple[str, int, int], tuple[int, float]] = defaultdict(
            lambda: (0, 0.0)
        )

    def run(self) -> list[list[Computation]]:
        while True:
            choices = [c for key in self._next if (c := self._choice(*key)) is not None]
            if not choices:
                return self._ordered
            start_s, _, _, rank, item = min(choices, key=lambda choice: choice[:4])
            self._take(item, self._stages[item.stage] if item.together else (rank,), start_s)

    def _choice(self, stage: int, rank: int) -> tuple[float, int, int, int, Computation] | None:
        """When a rank can begin the next item of a stage; ties go to what frees most memory."""
        index = self._next[stage, rank]
        if index == len(self._lists[stage]):
            return None
        item, start_s = self._lists[stage][index], self._free_s[rank]
        if item.together:
            replicas = self._stages[stage]
            if any(self._next[stage, other] != index for other in replicas):
                return None
            start_s = max(self._free_s[other] for other in replicas)
        for phase, neighbour in _needs(item, len(self._stages)):
            count, end_s = self._done[phase, neighbour, item.micro_batch]
            if count < len(self._stages[neighbour]):
                return None
            start_s = max(start_s, end_s + self._crossing_s[min(stage, neighbour)])
        order = ("update", "backward", "forward").index(item.phase)
        return start_s, order, -stage, rank, item

    def _take(self, item: Computation, ranks: Sequence[int], start_s: float) -> None:
        forward_s, backward_s = self._seconds[item.stage]
        lasts_s = {"forward": forward_s, "backward": backward_s, "update": 0.0}[item.phase]
        key = (item.phase, item.stage, item.micro_batch)
        for rank in ranks:
            self._ordered[rank].append(item)
            self._next[item.stage, rank] += 1
            self._free_s[rank] = start_s + lasts_s
            count, end_s = self._done[key]
            self._done[key] = (count + 1, max(end_s, start_s + lasts_s))


def _needs(item: Computation, stages: int) -> list[tuple[Phase, int]]:
    """What must be done in a neighbouring stage first."""
    if item.phase == "forward" and item.stage > 0:
        return [("forward", item.stage - 1)]
    if item.phase == "backward" and item.stage < stages - 1:
        return [("backward", item.stage + 1)]
    return []
