"""Shares of a mini-batch against brute force, and what passes between two splittings."""

from collections.abc import Sequence
from itertools import combinations_with_replacement, pairwise

import pytest
from hypothesis import given, strategies as st

from sparsepipe.runtime.samples import shared_samples, split_by_speed, within
from systems.schema import InputError

SPEEDS = st.lists(st.floats(0.1, 10), min_size=1, max_size=4)
VOXELS = st.lists(st.integers(0, 5000), min_size=1, max_size=8)


def slowest(ranges: Sequence[range], voxels: Sequence[int], speeds: Sequence[float]) -> float:
    totals = [sum(voxels[r.start : r.stop]) for r in ranges]
    return max(total / speed for total, speed in zip(totals, speeds, strict=True))


def covers(ranges: Sequence[range], samples: int) -> bool:
    return [i for r in ranges for i in r] == list(range(samples))


@given(voxels=VOXELS, speeds=SPEEDS)
def test_no_other_split_is_faster(voxels: list[int], speeds: list[float]) -> None:
    ranges = split_by_speed(voxels, speeds)
    assert len(ranges) == len(speeds)
    assert covers(ranges, len(voxels))
    cuts = combinations_with_replacement(range(len(voxels) + 1), len(speeds) - 1)
    bounds = ([0, *inner, len(voxels)] for inner in cuts)
    others = ([range(a, b) for a, b in pairwise(bound)] for bound in bounds)
    best = min(slowest(other, voxels, speeds) for other in others)
    assert slowest(ranges, voxels, speeds) <= best * (1 + 1e-9)


def test_equal_samples_are_shared_by_speed() -> None:
    assert split_by_speed([100] * 12, [1, 2, 3]) == [range(0, 2), range(2, 6), range(6, 12)]


def test_one_large_cloud_counts_as_many_small_ones() -> None:
    ranges = split_by_speed([10, 10, 10, 70, 10, 10, 10, 10], [1, 1, 1])
    assert ranges == [range(0, 3), range(3, 4), range(4, 8)]


def test_fewer_samples_than_replicas_leave_some_without() -> None:
    ranges = split_by_speed([5, 5], [1, 1, 1, 1])
    assert covers(ranges, 2)
    assert sorted(map(len, ranges)) == [0, 0, 1, 1]


def test_clouds_without_voxels_belong_to_somebody() -> None:
    assert covers(split_by_speed([0, 0, 0], [1, 1]), 3)
    assert covers(split_by_speed([0, 7, 0, 0], [1, 1]), 4)


@pytest.mark.parametrize(("voxels", "speeds"), [([1], []), ([1], [1, 0]), ([-1], [1])])
def test_impossible_speeds_and_voxels_are_refused(voxels: list[int], speeds: list[float]) -> None:
    with pytest.raises(InputError, match="above 0"):
        split_by_speed(voxels, speeds)


@given(voxels=VOXELS, before=SPEEDS, after=SPEEDS)
def test_every_sample_passes_once(
    voxels: list[int], before: list[float], after: list[float]
) -> None:
    sources, targets = split_by_speed(voxels, before), split_by_speed(voxels, after)
    found = [(i, j, x) for i, own in enumerate(sources) for j, x in shared_samples(own, targets)]
    assert [i for _, _, samples in found for i in samples] == list(range(len(voxels)))
    for source, target, samples in found:
        assert len(samples)
        assert set(samples) <= set(sources[source]) & set(targets[target])
        assert sources[source][within(samples, sources[source])[0]] == samples[0]
