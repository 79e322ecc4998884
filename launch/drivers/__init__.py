"""How the launcher runs each system: everything in `launch` that knows one is in its driver."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from launch.job import Job
from systems.distributed import World
from systems.emulated import Emulation
from systems.record import Step
from systems.trace import Tracer

DRIVERS = {name: f"launch.drivers.{name}" for name in ("stanza", "sparsepipe", "speculative")}
"""System to module."""


@dataclass(frozen=True)
class Opened:
    """One rank's part of a job, ready to start."""

    scheme: str
    """How it is distributed, for the first line of a run."""
    roles: str
    """Who does what, for the same."""
    data: str
    """The kind of data."""
    last: int
    """Number of the last step, which holds the run's totals."""
    steps: Callable[[World, Tracer], Iterator[Step]]
    """Does the work, yields every step."""


class Driver(Protocol):
    """A module with these functions. Plans are dataclasses that JSON can hold."""

    def plan_job(self, job: Job, *, may_measure: bool) -> Any:
        """Who does what. With `may_measure`, figures that are missing are measured first.

        Raises:
            InputError: whatever is wrong with the job.
        """

    def plan_measured(self, alike: Sequence[Job]) -> list[Any]:
        """Plans of jobs of one world size, from what is measured here once, for all of them."""

    def read_plan(self, table: Any, where: str) -> Any:
        """A plan from its JSON, out of the file `where`."""

    def resolved(self, job: Job, plan: Any) -> Job:
        """The job with the plan's answers written in, so that it runs again without planning."""

    def roles(self, job: Job, plan: Any) -> Sequence[str]:
        """The role of every rank, which errors name."""

    def check(self, job: Job, plan: Any) -> None:
        """Load what every rank will load.

        Raises:
            InputError: the data are not there.
        """

    def open(self, job: Job, plan: Any, emulation: Emulation | None) -> Opened:
        """Prepare this rank's part."""

    def summarize(
        self, job: Job, plan: Any, everyone: list[list[Step]], emulation: Emulation | None
    ) -> dict[str, Any]:
        """The result of a run from every rank's steps: `samples_per_s`, `step_s` and more."""

    def line(self, result: dict[str, Any]) -> str:
        """A result in one line."""

    def simulated_step_s(self, job: Job, plan: Any) -> float:
        """The step time of the plan on the job's cluster, played by the simulator."""


def driver(job: Job) -> Driver:
    """The driver of a job's system."""
    return cast(Driver, importlib.import_module(DRIVERS[job.system]))


def training_line(result: dict[str, Any]) -> str:
    """A training run's result in one line: throughput, step time, accuracy if it was tested."""
    tested = result.get("test_accuracy")
    accuracy = "" if tested is None else f", test accuracy {tested:.2%}"
    step, simulated_s = result["step_s"], result.get("simulated_step_s")
    beside = "" if simulated_s is None else f" (simulated: {simulated_s * 1e3:.2f} ms)"
    return (
        f"{result['samples_per_s']:,.0f} samples/s, step {step['median'] * 1e3:.2f} ms "
        f"[{step['low'] * 1e3:.2f}, {step['high'] * 1e3:.2f}] n={step['n']}{beside}{accuracy}"
    )
