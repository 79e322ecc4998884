"""What the steps of a run amount to: times, throughput, latency, and how busy every rank was.

Latency across hosts is only as exact as their clocks agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from sparsepipe.schedule.lists import Schedule
from systems import schema
from systems.measure import spread
from systems.runs.record import Step


@dataclass(frozen=True, kw_only=True)
class SteadyState:
    """The mini-batches of a pipeline between those in which it fills and drains."""

    window: range
    """The numbers of these mini-batches."""
    step_s: list[float]
    """For each of them, the seconds from the end of the mini-batch before it to its own end."""
    samples_per_s: float
    """The throughput."""
    latency_s: float
    """The median seconds from the beginning of a mini-batch at the first stage to its end."""
    utilisation: list[float]
    """For each rank, the part of the time in which it computes; 0 where it holds no stage."""

    @property
    def mean_step_s(self) -> float:
        """The mean of `step_s`; asynchronous mini-batches may end in pairs, so single ones vary."""
        return mean(self.step_s)

    def summary(self) -> dict[str, Any]:
        """The part of a result that emulated pipelines and inference have in common."""
        return {
            "step_s": schema.dump(spread(self.step_s)),
            "mean_step_s": self.mean_step_s,
            "samples_per_s": self.samples_per_s,
            "utilisation": self.utilisation,
        }


def steady_state(
    schedule: Schedule, everyone: Sequence[Sequence[Step]], warm_up: int, dilate: float = 1
) -> SteadyState:
    """Measure the mini-batches between the first and the last `warm_up` ones.

    The first mini-batch of a run never counts, unless it is the only one: nothing ends before it.

    Args:
        everyone: for each rank, its steps of `sparsepipe.runtime.run.run_pipeline`.
        dilate: the factor by which an emulation stretched time; durations are divided by it.
    """
    window = range(max(1, warm_up), schedule.mini_batches - warm_up)
    if schedule.mini_batches == 1:
        window = range(1)
    working = {rank: steps for rank, steps in enumerate(everyone) if steps}
    # A mini-batch begins on the first stage, and ends where the last rank is done with it.
    ended_s = [max(s[m].metrics["ended_s"] for s in working.values()) for m in range(window.stop)]
    began_s = [
        min(working[rank][m].metrics["began_s"] for rank in schedule.stages[0])
        for m in range(window.stop)
    ]
    # A step lasts from the end of the mini-batch before; the very first, from its own beginning.
    step_s = [(ended_s[m] - (ended_s[m - 1] if m else began_s[0])) / dilate for m in window]
    anyone = next(iter(working.values()))
    return SteadyState(
        window=window,
        step_s=step_s,
        samples_per_s=sum(anyone[m].metrics["samples"] for m in window) / sum(step_s),
        latency_s=median((ended_s[m] - began_s[m]) / dilate for m in window),
        utilisation=[_utilisation(steps, window) for steps in everyone],
    )


def _utilisation(steps: Sequence[Step], window: range) -> float:
    """The part of the time in which one rank went forward, backward or updated; 0 if idle."""
    chosen = [steps[m].metrics for m in window] if steps else []
    lasted_s = sum(metrics["step_s"] for metrics in chosen)
    return sum(metrics["compute_s"] for metrics in chosen) / lasted_s if lasted_s else 0.0


def fill_mini_batches(schedule: Schedule) -> int:
    """The number of mini-batches in which a pipeline fills; it drains in as many."""
    return max(schedule.in_flight) if schedule.kind == "1f1b-async" else 1


def summarize_one_rank(steps: Sequence[Step], warm_up: int) -> dict[str, Any]:
    """Summarize times, throughput and losses from the steps of one rank that takes part in all
    samples.

    The first `warm_up` steps are not counted in times, unless there are no others.
    """
    counted = [step.metrics for step in steps[min(warm_up, len(steps) - 1) :]]
    seconds = [metrics["step_s"] for metrics in counted]
    return {
        "step_s": schema.dump(spread(seconds)),
        "samples_per_s": sum(metrics["samples"] for metrics in counted) / sum(seconds),
        "voxels_per_step": sum(metrics["voxels"] for metrics in counted) / len(counted),
        "loss": [step.metrics["loss_sum"] / step.metrics["samples"] for step in steps],
    }
