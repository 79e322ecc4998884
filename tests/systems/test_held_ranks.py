"""Ranks that are held to shares of one machine's cores, behind links: hand-computed cases, and
properties of quotas."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from systems.clusters.cluster import Link
from systems.clusters.host import FREE, Cost, Host
from systems.program import Program
from systems.schema import InputError
from systems.simulate import simulate

HELD = replace(FREE, cores=4.0, share=0.25, period_s=8.0)
"""In every period of 8 s a rank runs for 2 s at most."""
LINKED = replace(HELD, bandwidth_bits_per_s=8.0, message=Cost(fixed_s=1.0, byte_s=0.0))
"""A byte takes a second on a link; a message takes half a second of its sender's and its
receiver's core."""
QUARTERS = st.integers(1, 40).map(lambda n: n / 4)


def computed_s(seconds: float, host: Host, *, after_s: float = 0.0) -> float:
    """When rank 0 has computed for so many core seconds, if it waits before."""
    program = Program()
    clock = program.transfer({})
    program.tasks[clock] = replace(program.tasks[clock], seconds=after_s)
    task = program.compute("rank 0", seconds, after=[clock])
    return simulate(program, host).ends_s[task]


def test_a_quota_is_used_up_at_the_speed_of_a_core_and_comes_again_with_the_next_period() -> None:
    assert computed_s(1.5, HELD) == pytest.approx(1.5)
    assert computed_s(2.5, HELD) == pytest.approx(8.5)
    assert computed_s(5.0, HELD) == pytest.approx(17.0)


@given(QUARTERS)
def test_a_rank_that_computes_uses_one_quota_a_period(seconds: float) -> None:
    full = math.ceil(seconds / 2.0) - 1
    assert computed_s(seconds, HELD) == pytest.approx(8.0 * full + seconds - 2.0 * full)


def test_what_is_left_of_a_quota_is_not_added_to_the_next() -> None:
    """From 7 s on: the quota of the first period for a second, then that of the second one."""
    assert computed_s(3.0, HELD, after_s=7.0) == pytest.approx(10.0)
    assert computed_s(3.5, HELD, after_s=7.0) == pytest.approx(16.5)


@settings(max_examples=20)
@given(QUARTERS, QUARTERS)
def test_short_periods_make_a_slow_rank(seconds: float, after_s: float) -> None:
    host = replace(HELD, period_s=0.05)
    lasts_s = computed_s(seconds, host, after_s=after_s) - after_s
    assert lasts_s == pytest.approx(seconds / 0.25, abs=0.05)


def test_the_threads_of_a_rank_share_its_quota() -> None:
    program = Program()
    tasks = [program.compute(stream, 1.5) for stream in ("rank 0", "server 0", "rank 0 fc")]
    timeline = simulate(program, HELD)
    assert [timeline.ends_s[task] for task in tasks] == pytest.approx([16.0 + 0.5 / 3] * 3)


def test_periods_of_ranks_begin_one_after_the_other() -> None:
    """The second of two ranks gets its next quota in the middle of the first one's period."""
    program = Program()
    tasks = [program.compute(f"rank {rank}", 3.0) for rank in range(2)]
    assert [simulate(program, HELD).ends_s[task] for task in tasks] == pytest.approx([9.0, 5.0])


def test_ranks_share_the_cores_too() -> None:
    program = Program()
    tasks = [program.compute(f"rank {rank}", 1.0) for rank in range(4)]
    timeline = simulate(program, replace(HELD, cores=2.0))
    assert [timeline.ends_s[task] for task in tasks] == pytest.approx([2.0] * 4)


def test_a_message_is_begun_crosses_the_link_and_is_read() -> None:
    program = Program(latency_s=0.25)
    message = program.flow(0, 1, 3.0)
    assert simulate(program, LINKED).ends_s[message] == pytest.approx(0.5 + 3.25 + 0.5)


def test_bytes_are_copied_while_they_cross_the_link() -> None:
    """Three bytes: 3 s on the link; a copy takes each of the two half as long, or twice as long."""
    program = Program()
    message = program.flow(0, 1, 3.0)
    quick, slow = (replace(LINKED, message=Cost(fixed_s=1.0, byte_s=b)) for b in (0.5, 4.0))
    assert simulate(program, quick).ends_s[message] == pytest.approx(0.5 + 3.0 + 0.5)
    slow = replace(slow, share=None)
    assert simulate(program, slow).ends_s[message] == pytest.approx(0.5 + 6.0 + 0.5)


def test_a_message_to_a_rank_that_stands_still_is_read_in_its_next_period() -> None:
    """Rank 1 uses up its quota at 2 s, and its next one comes at 4 s. The message is there at 3.5 s
    and has half of the core from 4 s on, beside what is computed."""
    program = Program()
    computing = program.compute("rank 1", 3.5)
    message = program.flow(0, 1, 3.0)
    timeline = simulate(program, LINKED)
    assert timeline.ends_s[message] == pytest.approx(4.5)
    assert timeline.ends_s[computing] == pytest.approx(5.5)


def test_links_are_those_of_a_cluster_where_threads_cost_nothing() -> None:
    host = replace(FREE, cores=99.0, bandwidth_bits_per_s=8.0)
    shared, ring, swap = (Program(latency_s=0.5) for _ in range(3))
    shared.flow(0, 2, 6.0)
    shared.flow(1, 2, 3.0, after=[shared.compute("rank 1", 1.0)])
    ring.all_reduce(range(3), 6.0)
    swap.exchange(range(3), 2.0, messages=1, peers=2)
    for program in (shared, ring, swap):
        on_links = simulate(program, Link(bandwidth_bits_per_s=8.0))
        assert simulate(program, host).ends_s == pytest.approx(on_links.ends_s)


@settings(max_examples=30)
@given(st.integers(2, 4), st.integers(1, 4), st.sampled_from([0.5, 1.0, 8.0]))
def test_no_rank_gets_more_than_its_share(ranks: int, steps: int, period_s: float) -> None:
    """Rings between computations take at least the core time of a rank over its share, but for
    the quota that it begins with."""
    host = replace(LINKED, period_s=period_s, ring=Cost(fixed_s=0.25, byte_s=0.5))
    program, last = Program(), list[int]()
    for _ in range(steps):
        last = [program.compute(f"rank {rank}", 1.0, after=last) for rank in range(ranks)]
        last = [program.all_reduce(range(ranks), ranks, after=last)]
    core_s = steps * (1.0 + 2 * (ranks - 1) * (0.25 + 0.5))
    assert simulate(program, host).end_s >= core_s / 0.25 - 2 * period_s


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="share = 0: give more than 0"):
        replace(HELD, share=0.0)
    with pytest.raises(InputError, match="bandwidth_bits_per_s = -1"):
        replace(HELD, bandwidth_bits_per_s=-1.0)
