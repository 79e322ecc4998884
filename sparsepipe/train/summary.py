"""What a pipeline's steps amount to: throughput, latency, how busy every rank was.

Clocks of ranks on different hosts are as close as their hosts': latency across hosts is no closer.
"""

from collections.abc import Sequence
from statistics import median

from sparsepipe.schedule.lists import Schedule
from systems.runs.record import Step
from systems.schema import InputError


def summarize_steady_state(
    schedule: Schedule, everyone: Sequence[Sequence[Step]], *, warm_up: int
) -> dict[str, float]:
    """Of the mini-batches between the first and the last `warm_up` ones, in which it fills and
    drains.

    Args:
        everyone: the steps of `sparsepipe.pipeline.run.run_pipeline`, by rank.

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
    seconds = step_times(schedule, everyone, warm_up)
    ended_s = _ended_s(schedule, everyone)
    began_s = [
        min(working[rank][mini_batch].metrics["began_s"] for rank in schedule.stages[0])
        for mini_batch in range(schedule.mini_batches)
    ]
    window_s = sum(seconds)
    anyone = next(iter(working.values()))
    samples = sum(anyone[mini_batch].metrics["samples"] for mini_batch in range(first, end))
    summary = {
        "step_s": window_s / len(seconds),
        "step_median_s": median(seconds),
        "samples_per_s": samples / window_s,
        "latency_s": median(ended_s[m] - began_s[m] for m in range(first, end)),
    }
    for rank, busy in enumerate(utilisation(everyone, range(first, end))):
        if everyone[rank]:
            summary[f"utilisation_rank_{rank}"] = busy
    return summary


def fill_mini_batches(schedule: Schedule) -> int:
    """Mini-batches in which a pipeline fills, and as many in which it drains."""
    return max(schedule.in_flight) if schedule.kind == "1f1b-async" else 1


def step_times(schedule: Schedule, everyone: Sequence[Sequence[Step]], warm_up: int) -> list[float]:
    """Seconds from the end of one mini-batch to that of the next, without the first and the last
    `warm_up` ones. Of a single one, from its beginning."""
    ended_s = _ended_s(schedule, everyone)
    if schedule.mini_batches == 1:
        return [ended_s[0] - min(steps[0].metrics["began_s"] for steps in everyone if steps)]
    window = range(max(1, warm_up), schedule.mini_batches - warm_up)
    return [ended_s[m] - ended_s[m - 1] for m in window]


def _ended_s(schedule: Schedule, everyone: Sequence[Sequence[Step]]) -> list[float]:
    """When the last rank was done with each mini-batch."""
    return [
        max(steps[mini_batch].metrics["ended_s"] for steps in everyone if steps)
        for mini_batch in range(schedule.mini_batches)
    ]


def utilisation(everyone: Sequence[Sequence[Step]], window: range) -> list[float]:
    """By rank, the part of the time in which it went forward, backward or updated; 0 if idle."""
    found = []
    for steps in everyone:
        chosen = [steps[m].metrics for m in window] if steps else []
        lasted_s = sum(metrics["step_s"] for metrics in chosen)
        busy_s = sum(metrics["compute_s"] for metrics in chosen)
        found.append(busy_s / lasted_s if lasted_s else 0.0)
    return found
