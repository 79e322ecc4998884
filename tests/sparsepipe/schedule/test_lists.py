"""Good schedules have no fault, broken ones have the right one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from sparsepipe.schedule.lists import (
    SCHEDULE_KINDS,
    Action,
    ActionKind,
    Schedule,
    ScheduleKind,
    StageRanks,
    build_schedule,
)
from systems.schema import InputError
from tests.sparsepipe.schedule.faults import most_in_flight, schedule_faults

ASYNC: ScheduleKind = "1f1b-async"


@st.composite
def stages(draw: st.DrawFn) -> StageRanks:
    """Any placement of 1 to 5 stages on 5 ranks, some of which may have none."""
    count = draw(st.integers(1, 5))
    ranks = st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True)
    return tuple(tuple(draw(ranks)) for _ in range(count))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    kind = draw(st.sampled_from(SCHEDULE_KINDS))
    where = draw(stages())
    seconds = draw(
        st.lists(
            st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)),
            min_size=len(where),
            max_size=len(where),
        )
    )
    micro = 1 if kind == ASYNC else draw(st.integers(1, 5))
    mini = draw(st.integers(1, 8 if kind == ASYNC else 3))
    in_flight = None
    if kind == ASYNC and draw(st.booleans()):
        more = draw(st.lists(st.integers(0, 2), min_size=len(where) - 1, max_size=len(where) - 1))
        in_flight = [1 + sum(more[stage:]) for stage in range(len(where))]
    return build_schedule(
        kind,
        where,
        mini_batches=mini,
        micro_batches=micro,
        in_flight=in_flight,
        late_updates=kind == ASYNC and draw(st.booleans()),
        seconds=seconds,
        crossing_s=[draw(st.floats(0, 9)) for _ in where[1:]],
    )


@given(schedules())
def test_schedules_have_no_faults(schedule: Schedule) -> None:
    assert not schedule_faults(schedule)
    for stage, ranks in enumerate(schedule.stages):
        for rank in ranks:
            if schedule.kind != "forward":
                most = most_in_flight(schedule, rank, stage)
                assert most == min(
                    schedule.in_flight[stage], schedule.mini_batches * schedule.micro_batches
                )


def test_asynchronous_versions_are_those_of_the_delay() -> None:
    schedule = build_schedule(ASYNC, ((0,), (1,), (2,)), mini_batches=6)
    versions = [
        [action.version for action in actions if action.kind is ActionKind.FORWARD]
        for actions in schedule.ranks
    ]
    assert versions == [[0, 0, 0, 1, 2, 3], [0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]


def test_late_updates_make_weights_of_replicas_one_update_older() -> None:
    schedule = build_schedule(ASYNC, ((0,), (1, 2)), mini_batches=6, late_updates=True)
    versions = [
        [action.version for action in actions if action.kind is ActionKind.FORWARD]
        for actions in schedule.ranks
    ]
    assert versions == [[0, 0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4]]


def test_one_forward_one_backward_by_hand() -> None:
    schedule = build_schedule("1f1b", ((0,), (1,)), mini_batches=1, micro_batches=3)
    work = [
        "".join(
            f"{action.kind[0]}{action.micro_batch} "
            for action in actions
            if action.kind in (ActionKind.FORWARD, ActionKind.BACKWARD, ActionKind.UPDATE)
        )
        for actions in schedule.ranks
    ]
    assert work == ["f0 f1 b0 f2 b1 b2 u2 ", "f0 b0 f1 b1 f2 b2 u2 "]


def edited(schedule: Schedule, rank: int, edit: Callable[[list[Action]], object]) -> Schedule:
    actions = list(schedule.ranks[rank])
    edit(actions)
    return replace(
        schedule, ranks=(*schedule.ranks[:rank], tuple(actions), *schedule.ranks[rank + 1 :])
    )


def pick(actions: list[Action], kind: ActionKind, micro_batch: int) -> int:
    return next(i for i, s in enumerate(actions) if s.kind is kind and s.micro_batch == micro_batch)


def move(actions: list[Action], kind: ActionKind, micro_batch: int, before: int) -> None:
    action = actions.pop(pick(actions, kind, micro_batch))
    actions.insert(before, action)


def change(actions: list[Action], kind: ActionKind, micro_batch: int, version: int) -> None:
    index = pick(actions, kind, micro_batch)
    actions[index] = replace(actions[index], version=version)


def drop(actions: list[Action], kind: ActionKind, micro_batch: int) -> None:
    del actions[pick(actions, kind, micro_batch)]


FLUSH = build_schedule("1f1b", ((0,), (1, 2)), mini_batches=2, micro_batches=3)
STASH = build_schedule(ASYNC, ((0,), (1, 2)), mini_batches=5)
BROKEN = {
    "a lost send": (
        edited(FLUSH, 0, lambda s: drop(s, ActionKind.SEND_ACTIVATION, 1)),
        "micro-batches [1] are never sent",
    ),
    "a lost receive": (
        edited(FLUSH, 0, lambda s: drop(s, ActionKind.RECEIVE_GRADIENT, 2)),
        "rank 1 to rank 0: micro-batches [2] are never received",
    ),
    "receives in another order": (
        edited(FLUSH, 1, lambda s: move(s, ActionKind.RECEIVE_ACTIVATION, 1, before=0)),
        "received in another order than sent",
    ),
    "a circle of receives": (
        edited(FLUSH, 0, lambda s: move(s, ActionKind.RECEIVE_GRADIENT, 0, before=0)),
        "deadlock: rank 0 waits for ever in receive gradient of micro-batch 0",
    ),
    "replicas that reduce at different times": (
        edited(STASH, 2, lambda s: drop(s, ActionKind.REDUCE, 4)),
        "deadlock: rank 1 waits for ever in reduce of micro-batch 4",
    ),
    "an update too early": (
        edited(
            FLUSH,
            0,
            lambda s: move(s, ActionKind.UPDATE, 2, before=pick(s, ActionKind.BACKWARD, 2)),
        ),
        "before the backward of micro-batches [2]",
    ),
    "an update before the reduce": (
        edited(
            FLUSH, 1, lambda s: move(s, ActionKind.UPDATE, 2, before=pick(s, ActionKind.REDUCE, 2))
        ),
        "before its gradients are reduced",
    ),
    "a backward with newer weights than its forward": (
        edited(STASH, 0, lambda s: change(s, ActionKind.BACKWARD, 3, version=3)),
        "its forward had weights 2",
    ),
    "a forward before an update": (
        edited(
            STASH, 0, lambda s: move(s, ActionKind.FORWARD, 2, before=pick(s, ActionKind.UPDATE, 0))
        ),
        "the weights there are 0",
    ),
    "a forward with weights older than the delay": (
        edited(STASH, 0, lambda s: change(s, ActionKind.FORWARD, 3, version=1)),
        "stale, 1f1b-async asks for weights 2",
    ),
    "weights that nobody drops": (
        edited(STASH, 0, lambda s: drop(s, ActionKind.BACKWARD, 4)),
        "stage 0 never drops weights [3]",
    ),
    "a send before its forward": (
        edited(FLUSH, 0, lambda s: move(s, ActionKind.SEND_ACTIVATION, 0, before=0)),
        "before its forward",
    ),
    "an action twice": (edited(FLUSH, 0, lambda s: s.insert(1, s[0])), "twice"),
    "a missing update": (
        edited(FLUSH, 0, lambda s: drop(s, ActionKind.UPDATE, 5)),
        "no update of micro-batch 5",
    ),
    "a stage that the rank does not hold": (
        edited(FLUSH, 0, lambda s: s.append(Action(ActionKind.FORWARD, 1, 0, 0))),
        "it does not hold this stage",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_schedules_are_found(name: str) -> None:
    schedule, text = BROKEN[name]
    assert any(text in fault for fault in schedule_faults(schedule)), schedule_faults(schedule)


@given(schedules(), st.data())
def test_no_step_can_be_left_out(schedule: Schedule, data: st.DataObject) -> None:
    rank = data.draw(st.sampled_from(sorted({r for ranks in schedule.stages for r in ranks})))
    index = data.draw(st.integers(0, len(schedule.ranks[rank]) - 1))
    assert schedule_faults(edited(schedule, rank, lambda actions: actions.pop(index)))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kind": "2f2b"}, "--schedule 2f2b"),
        ({"stages": ((0,), ())}, "give every stage ranks"),
        ({"late_updates": True}, "--late-updates"),
        ({"stages": ((0, 0),)}, "only once"),
        ({"kind": ASYNC, "micro_batches": 2}, "--micro-batches 2"),
        ({"mini_batches": 0}, "--mini-batches 0"),
        ({"in_flight": [3, 1]}, "--in-flight"),
        ({"kind": ASYNC, "in_flight": [1, 2]}, "--in-flight"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], text: str) -> None:
    given: dict[str, Any] = {"kind": "1f1b", "stages": ((0,), (1,)), "mini_batches": 1} | options
    with pytest.raises(InputError, match=text):
        build_schedule(given.pop("kind"), given.pop("stages"), **given)
