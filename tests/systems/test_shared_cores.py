"""Programs on one machine, whose cores all ranks share: hand-computed cases, properties, and a
plain reference in exact arithmetic."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, strategies as st

from systems.clusters.host import FREE, Cost
from systems.fair_links import CORES, Resource
from systems.program import Program
from systems.schema import InputError
from systems.simulate import core_seconds, simulate
from systems.simulation import Timeline

HOST = replace(
    FREE, cores=2.0, message=Cost(fixed_s=1.0, byte_s=0.5), ring=Cost(fixed_s=0.5, byte_s=1.0)
)
SECONDS = st.integers(1, 6)


def computing(seconds: list[int], cores: float) -> Timeline:
    """Ranks that all begin to compute at once, each for so many seconds."""
    program = Program()
    for rank, each in enumerate(seconds):
        program.compute(f"rank {rank}", each)
    return simulate(program, replace(HOST, cores=cores))


@given(SECONDS, st.integers(1, 8))
def test_one_busy_rank_is_as_fast_as_alone(seconds: int, cores: int) -> None:
    assert computing([seconds], cores).end_s == pytest.approx(seconds)


@given(st.integers(1, 8), SECONDS, st.integers(1, 4))
def test_ranks_that_compute_at_once_take_longer_by_ranks_over_cores(
    ranks: int, seconds: int, cores: int
) -> None:
    timeline = computing([seconds] * ranks, cores)
    assert timeline.ends_s == pytest.approx([seconds * max(1.0, ranks / cores)] * ranks)


def test_ranks_that_wait_take_nothing() -> None:
    """While rank 2 waits for the two others, each has a core; then it has one, and they wait."""
    program = Program()
    first = [program.compute(f"rank {rank}", 3.0) for rank in range(2)]
    program.compute("rank 2", 1.0, after=first)
    assert simulate(program, HOST).ends_s == pytest.approx([3.0, 3.0, 4.0])


def test_a_rank_of_two_threads_takes_two_cores() -> None:
    program = Program()
    for rank in range(2):
        program.compute(f"rank {rank}", 1.0)
    assert simulate(program, replace(HOST, threads=2)).end_s == pytest.approx(2.0)
    assert simulate(program, replace(HOST, threads=2, cores=4.0)).end_s == pytest.approx(1.0)


def test_a_message_takes_its_sender_and_its_receiver_the_same_core_time() -> None:
    """Six bytes: 4 s of core time, half of it of either, at once if there are two cores; then the
    latency."""
    program = Program(latency_s=0.25)
    message = program.flow(0, 1, 6.0)
    assert simulate(program, HOST).ends_s[message] == pytest.approx(2.0 + 0.25)
    assert simulate(program, replace(HOST, cores=1.0)).ends_s[message] == pytest.approx(4.0 + 0.25)


def test_a_message_slows_those_that_compute_beside_it() -> None:
    """On two cores two threads that compute and the two of a message have half a core each. After
    4 s the message is there, and the others do the 2 s that they have left at full speed."""
    program = Program()
    ranks = [program.compute(f"rank {rank}", 4.0) for rank in range(2)]
    message = program.flow(2, 3, 6.0)
    timeline = simulate(program, HOST)
    assert timeline.ends_s[message] == pytest.approx(4.0)
    assert [timeline.ends_s[rank] for rank in ranks] == pytest.approx([4.0 + 2.0] * 2)


def test_every_message_of_a_transfer_is_paid_for() -> None:
    """Four ranks send one byte in all to each of three others: 12 messages, one second each."""
    program = Program()
    program.exchange(range(4), 3.0, messages=1, peers=3)
    assert core_seconds(program.tasks[0], HOST)[CORES] == pytest.approx(12 * (1.0 + 0.5))


def test_a_ring_takes_every_rank_its_messages() -> None:
    """Each of 3 ranks passes on 2 bytes four times: 4 * (0.5 + 2) s of its core time."""
    program = Program()
    program.all_reduce(range(3), 6.0)
    assert simulate(program, HOST).end_s == pytest.approx(3 * 10.0 / 2)
    assert core_seconds(program.tasks[0], HOST)[CORES] == pytest.approx(3 * 10.0)


def test_what_has_no_bytes_takes_no_core_time() -> None:
    program = Program(latency_s=0.25)
    program.join([program.flow(0, 1, 0.0), program.compute("rank 0", 0.0)])
    assert simulate(program, HOST).end_s == 0.25


def test_a_host_without_cores_is_refused() -> None:
    with pytest.raises(InputError, match="cores = 0: give more than 0"):
        replace(HOST, cores=0.0)
    with pytest.raises(InputError, match="latency_s = -1"):
        replace(HOST, latency_s=-1.0)
    with pytest.raises(InputError, match="byte_s = -1"):
        Cost(fixed_s=0.0, byte_s=-1.0)


Job = tuple[int, int, int]
"""Second at which it begins, and the core seconds of its first and its second thread, of which the
second may be 0; both progress at one pace."""
jobs = st.lists(st.tuples(st.integers(0, 4), SECONDS, st.integers(0, 6)), min_size=1, max_size=6)


def reference(given_jobs: list[Job], cores: int) -> list[Fraction]:
    """When jobs end if every busy thread of one speed gets the same part of the cores, at most one
    core: everything anew at every event."""
    left = {i: Fraction(1) for i in range(len(given_jobs))}  # the part of the job that is left
    ends: dict[int, Fraction] = {}
    now = Fraction(0)
    while left:
        active = [i for i in left if given_jobs[i][0] <= now]
        busiest = {i: max(given_jobs[i][1:]) for i in active}
        threads = sum((Fraction(sum(given_jobs[i][1:]), busiest[i]) for i in active), Fraction(0))
        pace = min(Fraction(1), Fraction(cores) / threads) if active else Fraction(0)
        speed = {i: pace / busiest[i] for i in active}
        horizons = [left[i] / speed[i] for i in active]
        horizons += [Fraction(given_jobs[i][0]) - now for i in left if given_jobs[i][0] > now]
        step = min(horizons)
        now += step
        for i in active:
            left[i] -= speed[i] * step
            if not left[i]:
                ends[i] = now
                del left[i]
    return [ends[i] for i in range(len(given_jobs))]


@given(jobs, st.integers(1, 3))
def test_sharing_equals_the_exact_reference_and_keeps_core_time(
    given_jobs: list[Job], cores: int
) -> None:
    """Each job is a message of one byte of a size, whose costs are its two threads' seconds."""
    program = Program()
    host = replace(HOST, cores=cores, message=Cost(fixed_s=0, byte_s=2))
    numbers = []
    for i, (start_s, first_s, second_s) in enumerate(given_jobs):
        clock = program.transfer({}, name="clock")
        program.tasks[clock] = replace(program.tasks[clock], seconds=start_s)
        loads: dict[Resource, float] = {(2 * i, "out"): first_s, (2 * i + 1, "in"): second_s}
        numbers.append(program.transfer(loads, after=[clock]))
    timeline = simulate(program, host)
    expected = reference(given_jobs, cores)
    assert [timeline.ends_s[n] for n in numbers] == pytest.approx([float(end) for end in expected])
    core_s = sum(core_seconds(program.tasks[n], host)[CORES] for n in numbers)
    assert core_s == pytest.approx(sum(first + second for _, first, second in given_jobs))
    assert timeline.end_s >= core_s / cores - 1e-9  # the cores do no more than there is
