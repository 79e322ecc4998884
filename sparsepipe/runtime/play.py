"""Plays the list of a rank: executes its actions, and tells what each mini-batch has taken."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from sparsepipe.runtime.stage import StageRuntime
from sparsepipe.schedule.lists import Action, ActionKind, Schedule
from systems.measure import Laps
from systems.network.distributed import World
from systems.runs.record import Step
from systems.runs.trace import Tracer

COMPUTATION = (ActionKind.FORWARD, ActionKind.BACKWARD, ActionKind.UPDATE)
"""The actions whose time counts as computation."""


class StageMemoryError(MemoryError):
    """A mini-batch does not fit into a device's memory."""


class OpenPipeline:
    """The stages of one rank, which execute actions, and the time that they take."""

    def __init__(
        self, schedule: Schedule, stages: dict[int, StageRuntime], world: World, tracer: Tracer
    ) -> None:
        self._schedule, self._stages = schedule, stages
        self._world, self._tracer = world, tracer
        self._finished = time.perf_counter()
        self._computing, self._began_s = Laps(world.device), dict[int, float]()

    def play(self, actions: Iterable[Action]) -> Iterator[Step]:
        """Execute actions of this rank's list, in the order of the list; yield a step for every
        mini-batch that this rank is done with.

        The metrics of a step are `step_s` (seconds since the step before), `compute_s` (those of
        them that were spent on forward, backward and update), `samples` (of the whole mini-batch),
        `voxels` (of this rank's samples), `began_s` and `ended_s` (on the clock of this host),
        `versions` (of weights in memory), and at the last stage `loss_sum` (of this rank's
        samples).

        Raises:
            TransportError: a peer is gone or silent.
            StageMemoryError: a mini-batch that does not fit.
        """
        if not self._stages:
            return
        micro_batches = self._schedule.micro_batches
        # An action like this one ends every mini-batch.
        last_here = self._schedule.ranks[self._world.rank][-1]
        for action in actions:
            self._execute(action)
            ends = (action.stage, action.kind) == (last_here.stage, last_here.kind)
            if ends and (action.micro_batch + 1) % micro_batches == 0:
                yield self._step(action)
                self._finished = time.perf_counter()

    def _execute(self, action: Action) -> None:
        """Execute one action, and note the time that it takes."""
        stage = self._stages[action.stage]
        mini_batch = action.micro_batch // self._schedule.micro_batches
        started = time.perf_counter()
        with (
            self._tracer.span(
                action.kind.value, stage=action.stage, micro_batch=action.micro_batch
            ),
            _naming_what_did_not_fit(stage, action, self._world, mini_batch),
        ):
            if action.kind in COMPUTATION:
                with self._computing.one():
                    stage.do[action.kind](action.micro_batch)
            else:
                stage.do[action.kind](action.micro_batch)
        if action.kind is ActionKind.FORWARD:
            began_s = time.time() - (time.perf_counter() - started)
            self._began_s.setdefault(mini_batch, began_s)

    def _step(self, last: Action) -> Step:
        """What the mini-batch that an action ends has taken."""
        micro_batches, stage = self._schedule.micro_batches, self._stages[last.stage]
        mini_batch = last.micro_batch // micro_batches
        micros = range(last.micro_batch + 1 - micro_batches, last.micro_batch + 1)
        compute_s = self._computing.taken_s()  # on a GPU, this waits for the step's end
        metrics = {
            "step_s": time.perf_counter() - self._finished,
            "compute_s": compute_s,
            "samples": stage.mini_batch_size(mini_batch),
            "voxels": sum(stage.voxels(micro) for micro in micros),
            "began_s": self._began_s.pop(mini_batch),
            "ended_s": time.time(),
            "versions": max(one.kept_versions for one in self._stages.values()),
        }
        for one in self._stages.values():
            if mini_batch in one.losses:
                metrics["loss_sum"] = one.losses.pop(mini_batch)
        return Step(mini_batch, metrics)


@contextmanager
def _naming_what_did_not_fit(
    stage: StageRuntime, action: Action, world: World, mini_batch: int
) -> Iterator[None]:
    """Where the block runs out of memory, raise a StageMemoryError that says what did not fit."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and (
            "allocate memory" not in reason
        ):
            raise
        raise StageMemoryError(
            f"{world.name(world.rank)}: mini-batch {mini_batch} does not fit at stage "
            f"{stage.number}: {action.kind} of {stage.voxels(action.micro_batch):,} voxels in "
            f"{len(stage.samples(action.micro_batch))} samples, with {stage.held_bytes():,} bytes "
            f"of activations held at its ends ({reason}); give smaller mini-batches, more "
            "replicas, or fewer in flight"
        ) from error
