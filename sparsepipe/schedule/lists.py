"""Pipeline schedules as data: for every rank, the list of actions that it executes in order.

    schedule = build_schedule("1f1b-async", stages=((0,), (1, 2), (3,)), mini_batches=100)
    for action in schedule.ranks[1]:
        ...

There are four kinds. The pictures show two ranks with one stage each, and forward and backward
passes that last equally long. Time runs to the right, `0` is the forward pass of micro-batch 0, `a`
its backward pass (`b` that of micro-batch 1, and so on), and `.` means that the rank waits.

`gpipe`: a mini-batch is cut into micro-batches; all of them go forward, then all go backward, then
the weights are updated once, here after `c` (Y. Huang et al., GPipe, NeurIPS 2019).

    stage 0    0 1 2 . . a b c 3 4 5 . . d e f
    stage 1    . 0 1 2 a b c . . 3 4 5 d e f .

`1f1b`: the same update, but a stage goes backward as early as it can, so that stage s of S holds at
most S - s micro-batches at a time (D. Narayanan et al., PipeDream-Flush, ICML 2021).

    stage 0    0 1 . a 2 b . c 3 4 . d 5 e . f
    stage 1    . 0 a 1 b 2 c . . 3 d 4 e 5 f .

`1f1b-async`: there is no flush. Whole mini-batches follow one another, and the weights are updated
after every backward pass (weight stashing of D. Narayanan et al., PipeDream, SOSP 2019).

    stage 0    0 1 . a 2 b 3 c 4 d 5 e 6 f 7 g
    stage 1    . 0 a 1 b 2 c 3 d 4 e 5 f 6 g 7

`forward`: inference. There is no backward pass and no update.

[Weight stashing and delayed updates] In the last picture stage 0 goes forward with mini-batch 1
before mini-batch 0 has updated its weights. Stage s admits n_s mini-batches at a time, so
mini-batch m meets weights in which the updates of the n_s - 1 mini-batches before it are missing.
Write w_m for the weights of a stage after the updates of mini-batches 0 .. m - 1. Mini-batch m goes
forward with w_v, v = max(0, m - n_s + 1). Its gradient is right for those weights only, so the
stage stashes w_v until the backward pass of m has used it too; then w_{m+1} = update(w_m, gradient
of mini-batch m at w_v).

    mini-batch                     0   1   2   3   4
    its weights at stage 0, n = 2  w0  w0  w1  w2  w3
    its weights at stage 1, n = 1  w0  w1  w2  w3  w4

By default n_s = S - s, so the last stage has no delay. Stages see one mini-batch with weights of
different ages: there is no vertical synchronisation. With n_s = S - s a stage has no time to hide
messages in: two equal stages take their computation plus one crossing. `in_flight` admits more.

Replicas can apply the update of mini-batch m only once their all-reduce has summed its gradients.
With `late_updates` a stage of several replicas applies it after the backward pass of mini-batch
m + 1, behind which the all-reduce hides. Its weights are one update older: v = max(0, m - n_s).
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
"""The ranks that hold each stage, from the first stage to the last."""
ALL_REDUCE_PARTS = 8
"""The gradients of a stage are summed in this many all-reduces of about equal bytes, one after the
other, so that the first can begin while the backward pass still runs."""


class ActionKind(StrEnum):
    """What an action does. A receive waits for its message, a send only starts it."""

    RECEIVE_ACTIVATION = "receive activation"
    FORWARD = "forward"
    SEND_ACTIVATION = "send activation"
    RECEIVE_GRADIENT = "receive gradient"
    BACKWARD = "backward"
    SEND_GRADIENT = "send gradient"
    REDUCE = "reduce"
    """Wait for the all-reduce of the stage's gradients among its replicas."""
    UPDATE = "update"
    """One step of the optimizer."""


@dataclass(frozen=True, slots=True)
class Action:
    """One entry in the list of a rank."""

    kind: ActionKind
    """What the action does."""
    stage: int
    """The number of the stage that it belongs to."""
    micro_batch: int
    """Its number in the whole run; REDUCE and UPDATE name the last micro-batch of their
    mini-batch."""
    version: int | None = None
    """The version of the stage's weights that FORWARD and BACKWARD use, or that UPDATE makes."""

    def __str__(self) -> str:
        version = "" if self.version is None else f" (weights {self.version})"
        return f"{self.kind} of micro-batch {self.micro_batch} at stage {self.stage}{version}"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The lists of all ranks, and what they were built from."""

    kind: ScheduleKind
    """The kind of schedule."""
    stages: StageRanks
    """The ranks that hold each stage."""
    mini_batches: int
    """The number of mini-batches in the whole run."""
    micro_batches: int
    """The number of micro-batches in each mini-batch; 1 for `1f1b-async`."""
    in_flight: tuple[int, ...]
    """For each stage, the most micro-batches that it holds between their forward and backward."""
    late: tuple[int, ...]
    """For each stage, by how many mini-batches its updates are late: 0 or 1."""
    ranks: tuple[tuple[Action, ...], ...]
    """The list of each rank; it is empty where the rank holds no stage."""

    @property
    def lags(self) -> tuple[int, ...]:
        """For each stage, how many updates its weights are behind in the steady state."""
        if self.kind != "1f1b-async":
            return (0,) * len(self.stages)
        return tuple(n - 1 + late for n, late in zip(self.in_flight, self.late, strict=True))

    def version(self, stage: int, micro_batch: int) -> int:
        """The version of the weights that a micro-batch uses at a stage, forward and backward."""
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
    """Build the lists of all ranks for one kind of schedule.

    Args:
        stages: the ranks that hold each stage, from the first to the last.
        micro_batches: the number in each mini-batch, for `gpipe` and `1f1b`.
        in_flight: for `1f1b-async`, the n_s of each stage, if not S - s: never rising, 1 at the
            last stage.
        late_updates: for `1f1b-async`, whether stages of several replicas update one mini-batch
            late.
        seconds: (forward, backward) of each stage, by which ranks that hold several stages
            interleave them. By default, backward takes twice as long as forward.
        crossing_s: for the same purpose, the seconds of a message from each stage but the last to
            the next, or back. By default 0.

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
    lists = [_computations(empty, stage) for stage in range(count)]
    ordered = interleave(
        lists, stages, seconds or [(1.0, 2.0)] * count, crossing_s or [0.0] * (count - 1)
    )
    # Replicas share a list, which is turned into actions once.
    actions = {
        id(computations): tuple(action for one in computations for action in _actions(empty, one))
        for computations in {id(each): each for each in ordered}.values()
    }
    return replace(empty, ranks=tuple(actions[id(computations)] for computations in ordered))


def _check(kind: ScheduleKind, stages: StageRanks, mini_batches: int, micro_batches: int) -> None:
    """Refuse what no schedule can be built from."""
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
    kind: ScheduleKind, stages: int, micro_batches: int, asked: Sequence[int] | None
) -> tuple[int, ...]:
    """For each stage, the most micro-batches in flight: `asked`, or what the kind implies."""
    if asked is not None:
        falling = all(a >= b for a, b in pairwise(asked))
        if kind != "1f1b-async" or len(asked) != stages or not falling or asked[-1] != 1:
            raise InputError(
                f"--in-flight {list(asked)}: for 1f1b-async, give {stages} numbers, one a stage, "
                "never rising, 1 at the last"
            )
        return tuple(asked)
    if kind == "gpipe":
        return (micro_batches,) * stages
    if kind == "forward":
        return (1,) * stages
    least = [stages - stage for stage in range(stages)]
    return tuple(least if kind == "1f1b-async" else [min(n, micro_batches) for n in least])


def _computations(schedule: Schedule, stage: int) -> list[Computation]:
    """The computations of one stage in the order in which every replica does them."""
    total, micro_batches = schedule.mini_batches * schedule.micro_batches, schedule.micro_batches
    if schedule.kind == "forward":
        return [Computation("forward", stage, micro) for micro in range(total)]
    if schedule.kind == "1f1b-async":
        return _alternate(schedule, stage, range(total))
    starts = range(0, total, micro_batches)
    # Each mini-batch begins with an empty pipeline.
    rounds = [_alternate(schedule, stage, range(first, first + micro_batches)) for first in starts]
    return [computation for one in rounds for computation in one]


def _alternate(schedule: Schedule, stage: int, micros: range) -> list[Computation]:
    """The computations of a stage between two flushes: one forward, one backward (1F1B).

    `gpipe` is the case in which all micro-batches may be in flight.
    """
    computations: list[Computation] = []
    updates: list[Computation] = []
    ahead = iter(micros)  # the micro-batches that have not gone forward yet
    for micro in micros:
        # Before the first backward, fill the stage; then one forward replaces each backward.
        forwards = schedule.in_flight[stage] if micro == micros[0] else 1
        computations += [Computation("forward", stage, later) for later in islice(ahead, forwards)]
        computations.append(Computation("backward", stage, micro))
        if (micro + 1) % schedule.micro_batches == 0:
            together = len(schedule.stages[stage]) > 1
            updates.append(Computation("update", stage, micro, together=together))
        # An update waits until `late` more mini-batches have gone backward.
        if len(updates) > schedule.late[stage]:
            computations.append(updates.pop(0))
    return computations + updates


def _actions(schedule: Schedule, computation: Computation) -> list[Action]:
    """A computation with the messages that it needs before it and sends after it."""
    stage, micro, stages = computation.stage, computation.micro_batch, len(schedule.stages)
    version = schedule.version(stage, micro)
    if computation.phase == "update":
        update = Action(ActionKind.UPDATE, stage, micro, micro // schedule.micro_batches + 1)
        reduce = Action(ActionKind.REDUCE, stage, micro)
        return [reduce, update] if computation.together else [update]
    if computation.phase == "forward":
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


def roles(schedule: Schedule) -> list[str]:
    """A name for every rank by its stages, for errors: "stage 1", "stages 0 and 2", "idle"."""
    numbers: list[list[str]] = [[] for _ in schedule.ranks]
    for stage, ranks in enumerate(schedule.stages):
        for rank in ranks:
            numbers[rank].append(str(stage))
    return [
        f"stage{'s' if len(own) > 1 else ''} {' and '.join(own)}" if own else "idle"
        for own in numbers
    ]
