"""What a pipeline's steps amount to: throughput, latency, how busy every rank was.

Clocks of ranks on different hosts are as close as their hosts': latency across hosts is no closer.
"""

from collections.abc import Sequence
from statistics import median

from sparsepipe.schedule import Schedule
from systems.record import Step
from systems.schema import InputError


def summarize(
    schedule: Schedule, everyone: Sequence[Sequence[Step]], *, warm_up: int
) -> dict[str, float]:
    """Of the mini-batches between the first and the last `warm_up` ones, in which it fills and
    drains.

    Args:
        everyone: the steps of `sparsepipe.pipeline.run`, by rank.

    Returns:
        `step_s`, the mean time from the end of one mini-batch to the end of the next, and
        `step_median_s`; `samples_per_s`; `latency_s`, the median time from a mini-batch's beginning
        at the first stage to its end on the last rank; `utilisation_rank_N`, the part of the time
        in which a rank went forward, backward or updated.

    Raises:
        InputError: too few mini-batches.
    """
    first, end = warm_up, schedule.mini_batches - warm_up
    if first < 1 or end - first < 1:
        raise InputError(
            f"--warm-up {warm_up} of {schedule.mini_batches} mini-batches: give at least 1 and "
            "leave some to be measured"
        )
    working = {rank: steps for rank, steps in enumerate(everyone) if steps}
    ended_s = [
        max(steps[mini_batch].metrics["ended_s"] for steps in working.values())
        for mini_batch in range(schedule.mini_batches)
    ]
    began_s = [
        min(working[rank][mini_batch].metrics["began_s"] for rank in schedule.stages[0])
        for mini_batch in range(schedule.mini_batches)
    ]
    window_s, count = ended_s[end - 1] - ended_s[first - 1], end - first
    anyone = next(iter(working.values()))
    samples = sum(anyone[mini_batch].metrics["samples"] for mini_batch in range(first, end))
    summary = {
        "step_s": window_s / count,
        "step_median_s": median(ended_s[m] - ended_s[m - 1] for m in range(first, end)),
        "samples_per_s": samples / window_s,
        "latency_s": median(ended_s[m] - began_s[m] for m in range(first, end)),
    }
    for rank, steps in working.items():
        compute_s = sum(steps[m].metrics["compute_s"] for m in range(first, end))
        lasted_s = sum(steps[m].metrics["step_s"] for m in range(first, end))
        summary[f"utilisation_rank_{rank}"] = compute_s / lasted_s
    return summary
