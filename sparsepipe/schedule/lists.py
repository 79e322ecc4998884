"""Pipeline schedules as data: for every rank, the list of steps that it executes in order.

    schedule = build("1f1b-async", stages=((0,), (1, 2), (3,)), mini_batches=100)
    for action in schedule.ranks[1]:
        ...

A stage is a run of consecutive layers, held by one rank or several replicas; a rank that holds
several stages (virtual stages) interleaves them. Kinds:

- `gpipe`: every mini-batch is cut into micro-batches; all go forward, then all backward, then the
  weights are updated once (Y. Huang et al., GPipe, NeurIPS 2019).
- `1f1b`: the same update, but a stage goes backward as early as it can, so that it holds at most
  S - s micro-batches at a time (D. Narayanan et al., PipeDream-Flush, ICML 2021).
- `1f1b-async`: no flush; several mini-batches are in flight, each whole, and every one updates the
  weights (PipeDream's weight stashing, SOSP 2019). Stage s admits n_s mini-batches at a time, by
  default n_s = S - s for s = 0 .. S - 1. With w_m the weights after the updates of mini-batches
  0 .. m - 1, mini-batch m goes forward and backward with w_v, v = max(0, m - n_s + 1), and
  w_{m+1} = update(w_m, gradient of mini-batch m at w_v). The last stage (n = 1) has no delay.
  Stages see one mini-batch with weights of different ages (no vertical synchronisation).
- `forward`: inference; no backward, no update.

With n_s = S - s a stage has no time to hide messages in: two equal stages take their computation
plus one crossing. `in_flight` admits more. With `late_updates`, stages of several replicas apply
update m only after the backward pass of mini-batch m + 1: its all-reduce hides behind that, and
their weights are one update older, v = max(0, m - n_s).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice, pairwise
from typing import Literal, get_args

from sparsepipe.schedule.interleave import Computation, interleave
from systems.schema import InputError

ScheduleKind = Literal["gpipe", "1f1b", "1f1b-async", "forward"]
SCHEDULE_KINDS: tuple[ScheduleKind, ...] = get_args(ScheduleKind)
FLUSHING: tuple[ScheduleKind, ...] = ("gpipe", "1f1b")
StageRanks = tuple[tuple[int, ...], ...]
"""The ranks of every stage."""


class ActionKind(StrEnum):
    """What a step does. A receive waits for its message, a send only starts it."""

    RECEIVE_ACTIVATION = "receive activation"
    FORWARD = "forward"
    SEND_ACTIVATION = "send activation"
    RECEIVE_GRADIENT = "receive gradient"
    BACKWARD = "backward"
    SEND_GRADIENT = "send gradient"
    REDUCE = "reduce"
    """All-reduce of the stage's gradients among its replicas."""
    UPDATE = "update"


@dataclass(frozen=True, slots=True)
class Action:
    """One step of a rank's list."""

    kind: ActionKind
    stage: int
    micro_batch: int
    """Counted over the whole run; for REDUCE and UPDATE the last one of the mini-batch."""
    version: int | None = None
    """Of the stage's weights: what FORWARD and BACKWARD use, what UPDATE makes."""

    def __str__(self) -> str:
        version = "" if self.version is None else f" (weights {self.version})"
        return f"{self.kind} of micro-batch {self.micro_batch} at stage {self.stage}{version}"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The lists of all ranks."""

    kind: ScheduleKind
    stages: StageRanks
    mini_batches: int
    micro_batches: int
    """Of each mini-batch; 1 for `1f1b-async`."""
    in_flight: tuple[int, ...]
    """How many micro-batches every stage holds between forward and backward, at most."""
    late: tuple[int, ...]
    """By how many mini-batches every stage's updates are late."""
    ranks: tuple[tuple[Action, ...], ...]
    """By rank; empty for one that no stage is on."""

    @property
    def lags(self) -> tuple[int, ...]:
        """How many updates every stage's weights are behind, in the steady state."""
        if self.kind != "1f1b-async":
            return (0,) * len(self.stages)
        return tuple(n - 1 + late for n, late in zip(self.in_flight, self.late, strict=True))

    def receivers(self, action: Action) -> tuple[int, ...]:
        """The ranks that a send's message may go to: a replica gets the samples that it shares."""
        return self.stages[action.stage + (1 if action.kind is ActionKind.SEND_ACTIVATION else -1)]

    def senders(self, action: Action) -> tuple[int, ...]:
        """The ranks that a receive's message may come from."""
        return self.stages[action.stage + (1 if action.kind is ActionKind.RECEIVE_GRADIENT else -1)]

    def version(self, stage: int, micro_batch: int) -> int:
        """The weights that a micro-batch must meet at a stage, in both directions."""
        if self.kind == "forward":
            return 0
        return max(0, micro_batch // self.micro_batches - self.lags[stage])


def build_schedule(
    kind: ScheduleKind,
    stages: StageRanks,
    *,
    mini_batches: int,
    micro_batches: int = 1,
    in_flight: Sequence[int] | None = None,
    late_updates: bool = False,
    seconds: Sequence[tuple[float, float]] | None = None,
    crossing_s: Sequence[float] | None = None,
) -> Schedule:
    """The schedule of a kind.

    Args:
        stages: the ranks of every stage, from the first to the last.
        micro_batches: of each mini-batch, for `gpipe` and `1f1b`.
        in_flight: for `1f1b-async`, another n_s for every stage: never rising, 1 at the last.
        late_updates: for `1f1b-async`, whether replicas apply updates one mini-batch late.
        seconds: forward and backward of each stage: the order in which ranks with several stages
            interleave them. By default, backward takes twice as long as forward.
        crossing_s: likewise of a message from every stage but the last to the next, or back.

    Raises:
        InputError: an option that does not fit the others.
    """
    _check(kind, stages, mini_batches, micro_batches)
    count = len(stages)
    if late_updates and kind != "1f1b-async":
        raise InputError(f"--late-updates with --schedule {kind}: give 1f1b-async, or leave it out")
    empty = Schedule(
        kind=kind,
        stages=stages,
        mini_batches=mini_batches,
        micro_batches=micro_batches,
        in_flight=_in_flight(kind, count, micro_batches, in_flight),
        late=tuple(int(late_updates and len(ranks) > 1) for ranks in stages),
        ranks=(),
    )
    lists = [_items(empty, stage) for stage in range(count)]
    ordered = interleave(
        lists, stages, seconds or [(1.0, 2.0)] * count, crossing_s or [0.0] * (count - 1)
    )
    ranks = tuple(tuple(s for item in items for s in _actions(empty, item)) for items in ordered)
    return replace(empty, ranks=ranks)


def _check(kind: ScheduleKind, stages: StageRanks, mini_batches: int, micro_batches: int) -> None:
    if kind not in SCHEDULE_KINDS:
        raise InputError(f"--schedule {kind}: give one of {', '.join(SCHEDULE_KINDS)}")
    if not stages or not all(stages) or min(map(min, stages)) < 0:
        raise InputError(f"stages {stages}: give every stage ranks, counted from 0")
    if any(len(set(stage)) < len(stage) for stage in stages):
        raise InputError(f"stages {stages}: a rank can be a stage's replica only once")
    if mini_batches < 1 or micro_batches < 1:
        raise InputError(
            f"--mini-batches {mini_batches}, --micro-batches {micro_batches}: give 1 or more"
        )
    if micro_batches > 1 and kind == "1f1b-async":
        raise InputError(
            f"--micro-batches {micro_batches}: 1f1b-async pipelines whole mini-batches; "
            "give 1, or --schedule 1f1b"
        )


def _in_flight(
    kind: ScheduleKind, stages: int, micro_batches: int, given: Sequence[int] | None
) -> tuple[int, ...]:
    if given is not None:
        falling = all(a >= b for a, b in pairwise(given))
        if kind != "1f1b-async" or len(given) != stages or not falling or given[-1] != 1:
            raise InputError(
                f"--in-flight {list(given)}: for 1f1b-async, give {stages} numbers, one a stage, "
                "never rising, 1 at the last"
            )
        return tuple(given)
    if kind == "gpipe":
        return (micro_batches,) * stages
    if kind == "forward":
        return (1,) * stages
    least = [stages - stage for stage in range(stages)]
    return tuple(least if kind == "1f1b-async" else [min(n, micro_batches) for n in least])


def _items(schedule: Schedule, stage: int) -> list[Computation]:
    """A stage's computations in their order."""
    total, micro_batches = schedule.mini_batches * schedule.micro_batches, schedule.micro_batches
    if schedule.kind == "forward":
        return [Computation("forward", stage, micro) for micro in range(total)]
    if schedule.kind == "1f1b-async":
        return _round(schedule, stage, range(total))
    starts = range(0, total, micro_batches)
    rounds = [_round(schedule, stage, range(first, first + micro_batches)) for first in starts]
    return [item for items in rounds for item in items]


def _round(schedule: Schedule, stage: int, micros: range) -> list[Computation]:
    """Forward until enough micro-batches are held; then one backward, one forward, ..."""
    items: list[Computation] = []
    updates: list[Computation] = []
    ahead = iter(micros)
    for micro in micros:
        wanted = schedule.in_flight[stage] if micro == micros[0] else 1
        items += [Computation("forward", stage, later) for later in islice(ahead, wanted)]
        items.append(Computation("backward", stage, micro))
        if (micro + 1) % schedule.micro_batches == 0:
            together = len(schedule.stages[stage]) > 1
            updates.append(Computation("update", stage, micro, together=together))
        if len(updates) > schedule.late[stage]:
            items.append(updates.pop(0))
    return items + updates


def _actions(schedule: Schedule, item: Computation) -> list[Action]:
    """A computation with its messages."""
    stage, micro, stages = item.stage, item.micro_batch, len(schedule.stages)
    version = schedule.version(stage, micro)
    if item.phase == "update":
        reduce = [Action(ActionKind.REDUCE, stage, micro)] if item.together else []
        return [
            *reduce,
            Action(ActionKind.UPDATE, stage, micro, micro // schedule.micro_batches + 1),
        ]
    if item.phase == "forward":
        work, receive, send = (
            ActionKind.FORWARD,
            ActionKind.RECEIVE_ACTIVATION,
            ActionKind.SEND_ACTIVATION,
        )
        source, target = stage > 0, stage < stages - 1
    else:
        work, receive, send = (
            ActionKind.BACKWARD,
            ActionKind.RECEIVE_GRADIENT,
            ActionKind.SEND_GRADIENT,
        )
        source, target = stage < stages - 1, stage > 0
    actions = [Action(receive, stage, micro)] if source else []
    actions.append(Action(work, stage, micro, version))
    return [*actions, Action(send, stage, micro)] if target else actions


ALL_REDUCE_PARTS = 8
"""As many all-reduces, of about equal bytes, one after the other."""
