"""Replicas that cannot differ are played once: the result is that of playing every rank."""

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import example, given, settings, strategies as st

from sparsepipe.schedule.costs import StageCost, overlaps
from sparsepipe.schedule.lists import StageRanks, build_schedule
from sparsepipe.schedule.pipeline_classes import pipeline_classes
from sparsepipe.schedule.play import PlayedSchedule, play
from systems.clusters.cluster import Link

LINK = Link(bandwidth_bits_per_s=8e9, latency_s=1e-4)
"""A billion bytes a second."""


def cost(shares: list[float], seconds: float = 1.0, size_bytes: float = 0.0) -> StageCost:
    """A stage that computes in proportion to the shares."""
    return StageCost(
        forward_s=tuple(seconds * share for share in shares),
        backward_s=tuple(2 * seconds * share for share in shares),
        shares=tuple(shares),
        output_bytes=size_bytes,
        gradient_bytes=size_bytes,
        parameter_bytes=1e8,
    )


def chain(*replicas: int) -> StageRanks:
    """Stages with so many ranks each, in order."""
    first = [sum(replicas[:stage]) for stage in range(len(replicas))]
    return tuple(tuple(range(a, a + n)) for a, n in zip(first, replicas, strict=True))


def classes(stages: StageRanks, costs: list[StageCost]) -> list[tuple[int, ...]]:
    return [one.ranks for one in pipeline_classes(stages, costs, every_rank=False).classes]


def test_the_picture_of_three_replicas_before_two() -> None:
    found = classes(chain(3, 2), [cost([1 / 3] * 3), cost([0.5] * 2)])
    assert found == [(0, 2), (1,), (3, 4)]


def test_equal_replicas_one_to_one_or_in_groups_are_of_one_kind() -> None:
    assert classes(chain(4, 4), [cost([0.25] * 4)] * 2) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    groups = classes(chain(2, 6), [cost([0.5] * 2), cost([1 / 6] * 6)])
    assert groups == [(0, 1), (2, 3, 4, 5, 6, 7)]


def test_a_rank_that_takes_another_share_parts_its_neighbours() -> None:
    shares = [0.25, 0.25, 0.2, 0.3]
    found = classes(chain(4, 4), [cost(shares), cost([0.25] * 4)])
    assert found == [(0, 1), (2,), (3,), (4, 5), (6,), (7,)]


@settings(deadline=None)
@example(512, 375, 8)
@example(1365, 683, 2)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(2, 8))
def test_pipelines_side_by_side_have_the_classes_of_one(
    before: int, behind: int, lanes: int
) -> None:
    """However the sums of their shares are rounded."""

    def count(lanes: int) -> int:
        sizes = before * lanes, behind * lanes
        return len(classes(chain(*sizes), [cost([1 / n] * n) for n in sizes]))

    assert count(lanes) == count(1) <= 1 + (before + behind + 1) // 2


shares_of = st.lists(st.sampled_from([1, 1, 1, 2]), min_size=1, max_size=5).map(
    lambda parts: [float(Fraction(part, sum(parts))) for part in parts]
)


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[StageRanks, list[StageCost]]:
    """Two or three stages; in some, the last stage is on the ranks of the first."""
    shares = draw(st.lists(shares_of, min_size=2, max_size=3))
    stages = chain(*map(len, shares))
    if len(shares) == 3 and draw(st.booleans()):
        shares[2] = draw(st.permutations(shares[0]))
        stages = (stages[0], stages[1], stages[0])
    seconds = draw(st.lists(st.sampled_from([1.0, 1.5]), min_size=3, max_size=3))
    size_bytes = draw(st.sampled_from([0.0, 1e8, 1.3e9]))
    costs = [cost(part, s, size_bytes) for part, s in zip(shares, seconds, strict=False)]
    return stages, costs


def played(
    pipeline: tuple[StageRanks, list[StageCost]], micro_batches: int, every_rank: bool
) -> PlayedSchedule:
    stages, costs = pipeline
    schedule = build_schedule(
        "gpipe" if micro_batches > 1 else "1f1b-async",
        stages,
        mini_batches=9,
        micro_batches=micro_batches,
        seconds=[(max(c.forward_s), max(c.backward_s)) for c in costs],
    )
    return play(schedule, costs, LINK, every_rank=every_rank)


@settings(max_examples=60, deadline=None)
@given(pipelines(), st.sampled_from([1, 2]))
def test_classes_take_the_time_of_all_ranks(
    pipeline: tuple[StageRanks, list[StageCost]], micro_batches: int
) -> None:
    one, other = (played(pipeline, micro_batches, every_rank) for every_rank in (False, True))
    assert one.step_s == pytest.approx(other.step_s, rel=1e-12)
    assert one.timeline.end_s == pytest.approx(other.timeline.end_s, rel=1e-12)
    for rank in range(len(other.schedule.ranks)):
        assert one.utilisation(rank) == pytest.approx(other.utilisation(rank), rel=1e-12)


@given(pipelines())
def test_members_of_a_class_have_equal_neighbours(
    pipeline: tuple[StageRanks, list[StageCost]],
) -> None:
    """All members compute alike, and share as many samples with as many ranks of every class."""
    stages, costs = pipeline
    found = classes(stages, costs)
    class_of = {rank: number for number, ranks in enumerate(found) for rank in ranks}

    def seen(rank: int) -> Counter[object]:
        what: Counter[object] = Counter()
        for stage, ranks in enumerate(stages):
            if rank not in ranks:
                continue
            place = ranks.index(rank)
            what[stage, costs[stage].forward_s[place]] += 1
            for other in {stage - 1, stage + 1} & set(range(len(stages))):
                for peer, part in overlaps(costs[stage].shares, costs[other].shares)[place]:
                    what[stage, other, class_of[stages[other][peer]], round(part, 9)] += 1
        return what

    for ranks in found:
        assert all(seen(rank) == seen(ranks[0]) for rank in ranks)


def test_4096_replicas_are_as_many_tasks_and_seconds_as_one() -> None:
    """Eight stages: every chain of replicas does what a pipeline of eight ranks does."""
    alone = [cost([1.0], 1.0, 1e8) for _ in range(8)]
    many = [cost([1 / 512] * 512, 512.0, 512e8) for _ in range(8)]
    for costs in (alone, many):
        costs[:] = [StageCost(**{**vars(c), "parameter_bytes": 0.0}) for c in costs]
    schedules = [build_schedule("1f1b-async", chain(*[n] * 8), mini_batches=40) for n in (1, 512)]
    link = Link(bandwidth_bits_per_s=8e9)  # no latency: more replicas exchange more messages
    one, other = (play(s, c, link) for s, c in zip(schedules, (alone, many), strict=True))
    assert other.step_s == pytest.approx(one.step_s, rel=1e-9)
    assert len(other.classes) == 8
    assert len(other.timeline.tasks) < 20 * len(one.timeline.tasks)  # backward passes in parts
