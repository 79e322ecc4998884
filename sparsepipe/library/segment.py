"""Mini-batches that are given one after the other, played by the runtime as far as they go.

The runtime executes lists of actions, which are made for a number of mini-batches. A segment is a
list of `LENGTH` mini-batches of which each is played when it is given: all actions up to the first
one that needs a mini-batch that was not given yet. `finish` plays what is left of those that were
given, so that the pipeline runs empty. So an asynchronous pipeline, too, is empty between two
segments: when somebody asks for the weights, and after every `LENGTH` mini-batches.

    given        0       1         2         3                  finish
    stage 0      F0 .    F1 B0 .   F2 B1 .   F3 B2 .            B3 .
    stage 1      F0 B0   F1 B1     F2 B2     F3 B3
"""

import atexit
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from itertools import takewhile

from sparsepipe.library.given import GivenBatches
from sparsepipe.runtime.batch import Batch
from sparsepipe.runtime.play import OpenPipeline
from sparsepipe.schedule.lists import Action, Schedule
from systems.runs.record import Step

LENGTH = 512
"""The most mini-batches of a segment."""


class Segment:
    """One segment on one rank."""

    def __init__(
        self,
        schedule: Schedule,
        rank: int,
        batches: GivenBatches,
        opened: AbstractContextManager[OpenPipeline],
    ) -> None:
        """`schedule` is of `LENGTH` mini-batches. All ranks must do this together."""
        self.schedule, self.batches = schedule, batches
        self._actions = schedule.ranks[rank] if rank < len(schedule.ranks) else ()
        self._played = 0
        self._stack = ExitStack()
        self._running = self._stack.enter_context(opened)
        atexit.register(self._at_exit)

    @property
    def full(self) -> bool:
        """Whether all mini-batches of the segment have been given."""
        return self.batches.given == self.schedule.mini_batches

    def give(self, batch: Batch) -> list[Step]:
        """Play the next mini-batch as far as it goes; the steps that this rank is done with."""
        self.batches.give(batch)
        if not self._actions:  # this rank holds no stage
            self.batches.forget(self.batches.given - 1)
        due = list(takewhile(self._is_given, self._actions[self._played :]))
        self._played += len(due)
        return list(self._play(due))

    def finish(self) -> list[Step]:
        """Play the rest of what was given, and close; the steps that this rank is done with."""
        atexit.unregister(self._at_exit)
        rest = [action for action in self._actions[self._played :] if self._is_given(action)]
        steps = list(self._play(rest))
        self.batches.end()
        self._stack.close()
        return steps

    def _at_exit(self) -> None:
        """The program ends: let its threads end, and those of other ranks unless it has failed."""
        if getattr(sys, "last_value", None) is None:
            self.finish()
        self.batches.end()

    def _is_given(self, action: Action) -> bool:
        """Whether the mini-batch of an action has been given."""
        return action.micro_batch < self.batches.given * self.schedule.micro_batches

    def _play(self, actions: list[Action]) -> Iterator[Step]:
        """Execute actions, and forget the mini-batches that are done."""
        for step in self._running.play(actions):
            self.batches.forget(step.index)
            yield step
