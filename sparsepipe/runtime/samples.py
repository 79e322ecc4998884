"""Which samples of a mini-batch each replica of a stage takes, and which replica it gets them from.

Point clouds differ several-fold in size and devices in speed, so samples are split by voxels and
speed. Every replica takes consecutive samples, so that its rows of a tensor are a slice.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from systems.schema import InputError

_PRECISION = 1e-12
"""The search for the slowest replica's time ends at this relative error. Voxels are whole numbers,
so the split is exact."""


def split_by_speed(voxels: Sequence[float], speeds: Sequence[float]) -> list[range]:
    """Split samples into consecutive ranges, one a replica, so that the slowest is done soonest.

    Replicas keep their order. A replica may get no samples, always so where there are fewer samples
    than replicas.

    Args:
        voxels: the voxels of each sample, or whatever its cost is proportional to; 0 or more.
        speeds: the speed of each replica, in voxels per second or relative to the others; above 0.

    Raises:
        InputError: a speed or a number of voxels out of range, or no replicas.
    """
    if not speeds or min(speeds) <= 0 or (len(voxels) and min(voxels) < 0):
        raise InputError(
            f"shares by the speeds {list(speeds)}: give one above 0 for each replica, and voxel "
            "counts of 0 or more"
        )
    ends = [0.0, *accumulate(map(float, voxels))]
    # Bisect for the smallest time within which the replicas can take all samples.
    low, high = 0.0, ends[-1] / max(speeds) * (1 + _PRECISION)  # all on the fastest
    while high - low > _PRECISION * high:
        middle = (low + high) / 2
        if _filled(ends, speeds, middle)[-1].stop == len(voxels):
            high = middle
        else:
            low = middle
    return _filled(ends, speeds, high)


def _filled(ends: Sequence[float], speeds: Sequence[float], limit: float) -> list[range]:
    """The ranges if each replica in turn takes as many samples as it can do in `limit` seconds."""
    ranges, first = [], 0
    for speed in speeds:
        end = bisect_right(ends, ends[first] + limit * speed) - 1
        ranges.append(range(first, end))
        first = end
    return ranges


def shared_out(
    voxels: Sequence[float], speeds: Sequence[float], part: int, parts: int
) -> list[range]:
    """The samples that each replica takes of one part of a mini-batch, numbered in the mini-batch.

    The parts, which are micro-batches, have about equally many samples.

    Args:
        voxels: those of each sample of the mini-batch.
        speeds: see `split_by_speed`.
        part: the number of the part, counted from 0.
        parts: how many there are.
    """
    first, end = (len(voxels) * k // parts for k in (part, part + 1))
    shared = split_by_speed(voxels[first:end], speeds)
    return [range(first + samples.start, first + samples.stop) for samples in shared]


def shared_samples(own: range, others: Sequence[range]) -> list[tuple[int, range]]:
    """The samples that a replica has in common with each replica of a neighbouring stage.

    Args:
        own: the samples of the replica.
        others: the samples of each replica of the other stage.

    Returns:
        (number of the other replica, samples) where there are any, in order.
    """
    ranges = (range(max(own.start, r.start), min(own.stop, r.stop)) for r in others)
    return [(number, samples) for number, samples in enumerate(ranges) if samples]


def within(samples: range, of: range) -> range:
    """Renumber `samples`, which lie in the range `of`, from the first of `of`."""
    return range(samples.start - of.start, samples.stop - of.start)
