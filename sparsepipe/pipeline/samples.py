"""Which samples of a mini-batch each replica of a stage takes, and from whom it gets them.

Clouds differ several-fold in size and devices in speed, so samples are split by voxels and speed.
Every replica takes consecutive samples, whose rows are a slice.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from systems.schema import InputError

_PRECISION = 1e-12
"""Relative, of the slowest replica's time; voxels are whole numbers, so shares are exact."""


def split_by_speed(voxels: Sequence[float], speeds: Sequence[float]) -> list[range]:
    """Consecutive samples for each replica: the slowest replica's time is the smallest possible.

    Replicas keep their order; one may get no samples, at least where there are fewer samples than
    replicas.

    Args:
        voxels: of each sample, or what else its cost is proportional to; 0 or more.
        speeds: of each replica, in voxels per second, or relative to the others'; more than 0.

    Raises:
        InputError: a speed or a number of voxels out of range, or no replicas.
    """
    if not speeds or min(speeds) <= 0 or (len(voxels) and min(voxels) < 0):
        raise InputError(
            f"shares by the speeds {list(speeds)}: give one above 0 for each replica, and voxel "
            "counts of 0 or more"
        )
    ends = [0.0, *accumulate(map(float, voxels))]
    low, high = 0.0, ends[-1] / max(speeds) * (1 + _PRECISION)  # all on the fastest
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        if _filled(ends, speeds, middle)[-1].stop == len(voxels):
            high = middle
        else:
            low = middle
    return _filled(ends, speeds, high)


def _filled(ends: Sequence[float], speeds: Sequence[float], limit: float) -> list[range]:
    """Each replica in turn takes as many samples as it can do within `limit`."""
    ranges, first = [], 0
    for speed in speeds:
        end = bisect_right(ends, ends[first] + limit * speed) - 1
        ranges.append(range(first, end))
        first = end
    return ranges


class Passage(NamedTuple):
    """Samples that go from a replica of one stage to a replica of the next, or back."""

    source: int
    """The replica's number in its stage, as `target`."""
    target: int
    samples: range
    """Numbered in the mini-batch."""


def passages(before: Sequence[range], after: Sequence[range]) -> list[Passage]:
    """What goes where between two stages that split one mini-batch; nothing empty, in order.

    Raises:
        ValueError: the two do not split the same number of samples.
    """
    if before[-1].stop != after[-1].stop:
        raise ValueError(f"{before[-1].stop} samples before, {after[-1].stop} after")
    pairs = [(i, j) for i in range(len(before)) for j in range(len(after))]
    found = [Passage(i, j, intersection(before[i], after[j])) for i, j in pairs]
    return [passage for passage in found if passage.samples]


def intersection(first: range, second: range) -> range:
    """The samples in both; empty if there are none."""
    start = max(first.start, second.start)
    return range(start, max(start, min(first.stop, second.stop)))


def within(samples: range, of: range) -> range:
    """The same samples numbered from the first of `of`, as the replica that holds `of` does."""
    return range(samples.start - of.start, samples.stop - of.start)
