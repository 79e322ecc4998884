"""Says when a measured profile may be of a busy machine, with times that are not its device's."""

import os
import sys

from systems.profiles.profile import ModelProfile

BUSY = 0.5
"""A machine is busy if the threads that are measured and the load average before, over one minute,
are together this much above the number of its cores."""
UNSTEADY = 1.5
"""Times are unsteady if those at the upper quartile are so many times those at the lower one."""


def load_average() -> float:
    """How many threads of this machine wanted to run, on average over the last minute."""
    return os.getloadavg()[0]


def doubts(measured: ModelProfile, load: float, cores: int) -> list[str]:
    """The reasons not to trust the times of a profile; none for a steady one of an idle machine.

    Args:
        load: the load average just before the measurement.
        cores: the number of this machine's.
    """
    reasons = []
    if measured.threads is not None and load + measured.threads > cores + BUSY:
        reasons.append(
            f"the machine was busy before it began (load average {load:.1f}, threads of the "
            f"profile {measured.threads}, cores {cores})"
        )
    low, high = measured.low, measured.high
    if low is not None and high is not None and high > UNSTEADY * low:
        reasons.append(
            f"the upper quartile of the repetitions is {high / low:.1f} times the lower one "
            f"(steady: up to {UNSTEADY:g})"
        )
    return reasons


def warn_if_doubtful(measured: ModelProfile, load: float) -> None:
    """Print one line if a profile may be of a busy machine; see `doubts`."""
    reasons = doubts(measured, load, os.cpu_count() or 1)
    if reasons:
        print(
            f"warning: the times of this profile are doubtful: {'; '.join(reasons)}; measure again "
            "on an idle machine",
            file=sys.stderr,
        )
