"""Shares of a batch with which unequal devices compute equally long."""

import heapq
from collections.abc import Sequence

from stanza.planner.costs import Costs, CostsAt


def balanced(at: Sequence[CostsAt], samples: int, *, separated: bool) -> tuple[int, ...]:
    """Share a batch so that the slowest of some workers computes as briefly as it can. Samples go
    one by one to the worker that would then be done first, which is best where more samples never
    take less time. Every worker gets at least one, if there are enough.

    Samples go one by one to the worker that would then be done first, which is best where more
    samples never take less time. Every worker gets at least one, if there are enough.

    Args:
        at: what a batch costs on the device of each worker.
        samples: those of all workers.
        separated: whether they compute the convolutional part alone.
    """
    fixed, per_sample = [], []
    for costs in at:
        one_s, two_s = (_compute_s(costs(size), separated) for size in (1, 2))
        per_sample.append(two_s - one_s)
        fixed.append(2 * one_s - two_s)
    shares = [1 if samples >= len(at) else 0] * len(at)
    queue = [
        (fixed[w] + per_sample[w] * (shares[w] + 1), w) for w in range(len(at))
    ]  # when each would be done with one sample more
    heapq.heapify(queue)
    for _ in range(samples - sum(shares)):
        _, worker = queue[0]
        shares[worker] += 1
        done_s = fixed[worker] + per_sample[worker] * (shares[worker] + 1)
        heapq.heapreplace(queue, (done_s, worker))
    return tuple(shares)


def _compute_s(costs: Costs, separated: bool) -> float:
    """The seconds that a worker computes in a step."""
    return costs.conv_forward_s + costs.conv_backward_s if separated else costs.compute_s
