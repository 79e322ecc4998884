"""How the launcher runs each system: everything in `launch` that knows one is in its driver."""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from launch.job import Job
from systems.profiles.emulation import Emulation
from systems.runs.record import Step
from systems.runs.trace import Tracer

if TYPE_CHECKING:  # torch is for ranks; who plans and starts them does without
    from systems.network.distributed import World
    from systems.runs.checkpoint import Checkpoints

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
    steps: Callable[["World", Tracer, "Checkpoints"], Iterator[Step]]
    """Does the work that is left, yields every step of it."""


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A job that was played by the simulator."""

    job: Job
    """As it was given, with the plan's answers written in."""
    plan: Any
    spans: Iterable[tuple[str, str, float, float]]
    """Of the timeline, for its trace."""
    result: dict[str, Any]
    """`step_s`, `predicted_step_s` (None: nothing predicts), `samples_per_s` and more."""
    what: str
    """Who does what, on which cluster, for the first line."""


class Driver(Protocol):
    """A module with these functions. Plans are dataclasses that JSON can hold.

    Of a system that is not emulated, `plan_emulated` and `simulate` say so, and what is only asked
    for afterwards is not there.
    """

    def plan_job(self, job: Job, *, may_measure: bool) -> Any:
        """Who does what. With `may_measure`, figures that are missing are measured first.

        Raises:
            InputError: whatever is wrong with the job.
        """

    def for_world(self, job: Job, world_size: int) -> Job:
        """The job on so many ranks, where these are not the job's own: what was planned for those
        is left to be planned anew."""

    def plan_measured(self, alike: Sequence[Job]) -> list[Any]:
        """Plans of jobs of one world size, from what is measured here once, for all of them."""

    def read_plan(self, table: Any, where: str) -> Any:
        """A plan from its JSON, out of the file `where`."""

    def resolved(self, job: Job, plan: Any) -> Job:
        """The job with the plan's answers written in, so that it runs again without planning."""

    def roles(self, job: Job, plan: Any) -> Sequence[str]:
        """The role of every rank, which errors name."""

    def with_batch_size(self, job: Job, samples: int) -> Job:
        """The job with so many samples in a step, over all ranks."""

    def batch_size(self, job: Job) -> int | None:
        """The samples of a step over all ranks; None where that is the planner's to say."""

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
        """The result of a run from every rank's steps: `samples_per_s`, `step_s` and more. After
        the world's own ranks may come earlier ones, see `systems.runs.record.former_steps`."""

    def samples(self, metrics: Sequence[Mapping[str, float]]) -> float | None:
        """The samples of one step, from what the ranks tell of it; None if they do not."""

    def line(self, result: dict[str, Any]) -> str:
        """A result in one line."""

    def simulated_step_s(self, job: Job, plan: Any) -> float:
        """The step time of the plan on the job's cluster, played by the simulator."""

    def simulate(self, job: Job) -> Simulated:
        """Plan a job and play it.

        Raises:
            InputError: whatever is wrong with the job.
        """

    def plan_emulated(self, job: Job) -> Any:
        """Who does what on an emulated cluster, from a profile of the devices.

        Raises:
            InputError: whatever is wrong with the job; links of unknown rate.
        """

    def link_rates(self, job: Job, plan: Any, emulation: Emulation) -> tuple[float, ...]:
        """By rank, the rates of the links that stand for those of the job's cluster, bits/s."""

    def predicted_step_s(self, plan: Any) -> float | None:
        """A step on the real cluster, as far as the planner knows."""

    def emulated_step_s(self, plan: Any) -> float:
        """How long an emulated step should last, so that the ranks' own Python is small beside
        it."""


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
