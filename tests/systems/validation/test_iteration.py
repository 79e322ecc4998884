"""An iteration in closed form and in the simulator: against hand-computed cases and each other."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from systems.validation import formula, played
from systems.validation.times import Message, StageTimes
from tests.systems.validation.synthetic import stage, uniform

seconds = st.floats(0.01, 1.0)


def deepspeed(stage: int, stages: int, micro_batches: int) -> Iterator[played.Action]:
    """The order of a stage by the rules of DeepSpeed's TrainSchedule, step by step."""

    def valid(micro: int) -> bool:
        return 0 <= micro < micro_batches

    before = -1
    for step in range(2 * (micro_batches + stages - 1)):
        forward = step % 2 == stage % 2
        micro = (step - stage) // 2 if forward else (step + stage + 1) // 2 - stages
        if forward:
            if valid(before) and stage > 0:
                yield "send", "gradient", before
            if valid(micro) and stage > 0:
                yield "receive", "activation", micro
        else:
            if valid(micro) and stage < stages - 1:
                yield "receive", "gradient", micro
            if valid(before) and stage < stages - 1:
                yield "send", "activation", before
        if valid(micro):
            yield "compute", "forward" if forward else "backward", micro
        before = micro


@given(stages=st.integers(1, 6), micro_batches=st.integers(1, 9))
def test_the_order_is_that_of_the_measured_engine(stages: int, micro_batches: int) -> None:
    for number in range(stages):
        ours = list(played.actions(number, stages, micro_batches))
        theirs = list(deepspeed(number, stages, micro_batches))
        # The engine has no step after the last backward pass; the first stage ends last, and every
        # gradient has been sent by then.
        assert ours[: len(theirs)] == theirs
        assert [one for one in ours[len(theirs) :] if one[0] != "send"] == []


@given(
    stages=st.integers(1, 6),
    micro_batches=st.integers(1, 12),
    forward_s=seconds,
    backward_s=seconds,
)
def test_equal_stages_without_messages_take_m_plus_p_minus_1_passes(
    stages: int, micro_batches: int, forward_s: float, backward_s: float
) -> None:
    pipeline = uniform(stages, forward_s, backward_s)
    expected = (micro_batches + stages - 1) * (forward_s + backward_s)
    assert formula.predict(pipeline, micro_batches).seconds == pytest.approx(expected)
    assert played.predict(pipeline, micro_batches).seconds == pytest.approx(expected)


@pytest.mark.parametrize("eager", [False, True])
def test_two_stages_by_hand(eager: bool) -> None:
    """Both wait for a round trip of 2 x 1 s in each cycle, which the last stage cannot hide."""
    pipeline = uniform(2, 1.0, 2.0, 1.0, eager=eager)
    # 2 x 3 s of passes, 2 s of messages, then 9 cycles of 3 + 2 s.
    assert formula.predict(pipeline, 10).seconds == pytest.approx(8 + 9 * 5)
    assert played.predict(pipeline, 10).seconds == pytest.approx(8 + 9 * 5)


def test_a_slow_first_stage_hides_eager_messages_but_not_long_ones() -> None:
    def pipeline(*, eager: bool) -> list[StageTimes]:
        return [stage(2.0, 4.0, 1.0, eager=eager), stage(0.5, 1.0, number=1)]

    for predict in (formula.predict, played.predict):
        cycle = [
            predict(pipeline(eager=e), 20).seconds - predict(pipeline(eager=e), 10).seconds
            for e in (True, False)
        ]
        assert cycle == pytest.approx([10 * 6.0, 10 * 8.0])


def test_stages_on_machines_of_their_own_reduce_side_by_side() -> None:
    apart = [stage(1.0, 1.0, 0.0, replicas=2, ring_s=3.0), stage(1.0, 1.0, number=1, replicas=2)]
    for predict in (formula.predict, played.predict):
        assert predict(apart, 1).seconds == pytest.approx(4.0 + 3.0)
        assert predict(apart, 1).reduction_s == pytest.approx(3.0)
    shared = [apart[0], replace(apart[1], ring_loads_s=apart[0].ring_loads_s)]
    for predict in (formula.predict, played.predict):
        assert predict(shared, 1).seconds == pytest.approx(4.0 + 6.0)


pipelines = st.lists(
    st.tuples(seconds, seconds, st.floats(0.0, 0.3)), min_size=1, max_size=4
).flatmap(lambda rows: st.tuples(st.just(rows), st.booleans(), st.integers(1, 8)))


def built(rows: list[tuple[float, float, float]], *, eager: bool) -> list[StageTimes]:
    """A pipeline of unequal stages: forward, backward and message seconds of each."""
    last = len(rows) - 1
    return [
        stage(f, b, None if n == last else x, eager=eager, number=n, ring_s=x, replicas=2)
        for n, (f, b, x) in enumerate(rows)
    ]


def faster(message: Message, factor: float) -> Message:
    return replace(message, loads_s={key: s / factor for key, s in message.loads_s.items()})


@settings(max_examples=60)
@given(case=pipelines, factor=st.floats(1.0, 10.0))
def test_more_bandwidth_is_never_slower(
    case: tuple[list[tuple[float, float, float]], bool, int], factor: float
) -> None:
    rows, eager, micro_batches = case
    slow = built(rows, eager=eager)
    fast = [
        replace(
            one,
            activations=tuple(faster(m, factor) for m in one.activations),
            gradients=tuple(faster(m, factor) for m in one.gradients),
            ring_loads_s={key: s / factor for key, s in one.ring_loads_s.items()},
        )
        for one in slow
    ]
    for predict in (formula.predict, played.predict):
        before, after = predict(slow, micro_batches), predict(fast, micro_batches)
        assert after.seconds <= before.seconds * (1 + 1e-9)
        assert after.reduction_s <= before.reduction_s * (1 + 1e-9)


@settings(max_examples=60)
@given(case=pipelines)
def test_the_simulator_keeps_its_bounds_and_more_micro_batches_take_longer(
    case: tuple[list[tuple[float, float, float]], bool, int],
) -> None:
    rows, eager, micro_batches = case
    pipeline = built(rows, eager=eager)
    found = played.predict(pipeline, micro_batches).seconds
    busiest = micro_batches * max(f + b for f, b, _ in rows)
    one_by_one = micro_batches * sum(f + b + 2 * x for f, b, x in rows) + max(x for *_, x in rows)
    assert busiest <= found * (1 + 1e-9)
    assert found <= one_by_one * (1 + 1e-9)
    assert played.predict(pipeline, micro_batches + 1).seconds > found
