"""What the launcher knows of the systems: one `Driver` each, found by name with `driver(job)`.

A driver is a record of functions, made once, as `DRIVER` in the module that `DRIVERS` names. Its
parts `training`, `emulating` and `simulate` are optional: a system says what it cannot do by not
having the part, and `required` turns that into the one line that the user reads.

This file is the place where a registry of systems would begin. Outside it, a system is named in
three places only: its options are a field of `launch.job.Job`, its own words on the command line
stand in `launch.__main__.SUBJECTS`, its experiments in `launch.reproduction.reproduce`.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from launch.job import Job
from systems import by_path, schema
from systems.profiles.emulation import Emulation
from systems.runs.record import Step
from systems.runs.trace import Tracer
from systems.schema import InputError

if TYPE_CHECKING:  # torch is for ranks; who plans and starts them does without
    from systems.network.distributed import World
    from systems.runs.checkpoint import Checkpoints

DRIVERS = {name: f"launch.drivers.{name}" for name in ("stanza", "sparsepipe", "speculative")}
"""The module of every system, by the system's name."""

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Work that one rank does in steps, such as training."""

    run: Callable[["World", Tracer, "Checkpoints"], Iterator[Step]]
    """Does the steps that are left and yields each of them."""
    last: int
    """The number of the last step, which holds the totals of the run."""
    shows_loss: bool = False
    """Whether `loss_sum` in the steps of rank 0 is the loss of rank 0's own `samples`, so that
    lines of progress can show their mean."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """One rank's part of a job: models and data are loaded, nothing has run yet."""

    scheme: str
    """How the work is distributed, in words, for the first line of a run."""
    roles: str
    """Which rank does what, in words, for the same line."""
    data: str
    """The kind of data."""
    work: Steps | Callable[["World"], dict[str, Any]]
    """Steps, or a function that does all of the work at once and returns the result of the run."""


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A job that was played by the simulator."""

    job: Job
    """The job, with the answers of the planner written in."""
    plan: Any
    """The plan that was played."""
    spans: Iterable[tuple[str, str, float, float]]
    """What every resource did when, for the trace: resource, name, start and end in seconds."""
    result: dict[str, Any]
    """`step_s`, `predicted_step_s` (None: no planner predicts it), `samples_per_s` and more."""
    what: str
    """Which rank does what on which cluster, in words, for the first line."""


@dataclass(frozen=True, kw_only=True)
class NoPlan:
    """The plan of a job that leaves nothing to decide."""


@dataclass(frozen=True, kw_only=True)
class Planning:
    """How a system decides which rank does what. Plans are dataclasses that JSON can hold."""

    plan_type: type
    """The class of the plans."""
    plan: Callable[[Job, bool], Any]
    """Makes the plan of a job. The flag says whether figures that are missing may be measured
    here first. Raises an InputError for whatever is wrong with the job."""
    plan_measured: Callable[[Sequence[Job]], list[Any]]
    """Makes the plans of several jobs of one world size, all from one measurement of this
    machine."""
    resized: Callable[[Job, int], Job]
    """Fits a job to another number of ranks. What was planned for the old number is left open."""
    resolved: Callable[[Job, Any], Job]
    """Writes the answers of a plan into the job, so that it runs again without planning."""
    roles: Callable[[Job, Any], Sequence[str]]
    """Names the role of every rank, for messages."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is made of the steps of a system that works in steps."""

    summarize: Callable[[Job, Any, list[list[Step]], Emulation | None], dict[str, Any]]
    """Makes the result of a run (`samples_per_s`, `step_s` and more) from a plan and the steps of
    every rank. Steps of earlier attempts may follow those of the ranks of this world; see
    `systems.runs.record.former_steps`."""
    samples: Callable[[Sequence[Mapping[str, float]]], float | None]
    """Counts the samples of one step from the metrics of the ranks; None if they do not say."""
    without_checkpoints: Callable[[Job], str | None]
    """Names the flag of the job that rules out checkpoints; None if it can have them."""
    no_prediction: Callable[[Job], str]
    """Says why no planner has predicted the step time of such a job."""


@dataclass(frozen=True, kw_only=True)
class Emulating:
    """How a system runs on an emulated cluster."""

    plan: Callable[[Job], Any]
    """Makes the plan of a job from a profile of the devices. Raises an InputError for whatever is
    wrong with the job, and for links of unknown rate."""
    link_rates: Callable[[Job, Any, Emulation], tuple[float, ...]]
    """Gives the rate of the emulated link of every rank, in bits per second."""
    predicted_step_s: Callable[[Any], float | None]
    """Gives the step time of a plan on the real cluster in seconds, if the planner knows it."""
    emulated_step_s: Callable[[Any], float]
    """Says how many seconds an emulated step of a plan should last. The Python of the ranks
    themselves must take little time beside it."""
    simulated_step_s: Callable[[Job, Any], float]
    """Plays a plan on the job's cluster in the simulator and gives the step time in seconds."""


def _plan_one_process(job: Job, may_measure: bool) -> NoPlan:
    """Refuse more than one rank: nothing would say what the others do."""
    if job.world_size != 1:
        raise InputError(f"--world-size {job.world_size}: {job.system} runs in one process; give 1")
    return NoPlan()


ONE_PROCESS = Planning(
    plan_type=NoPlan,
    plan=_plan_one_process,
    plan_measured=lambda jobs: [_plan_one_process(job, False) for job in jobs],
    resized=lambda job, world_size: job,
    resolved=lambda job, plan: job,
    roles=lambda job, plan: ["worker"],
)
"""The planning of a system that has none of its own: one process, which is called a worker."""


@dataclass(frozen=True, kw_only=True)
class Driver:
    """How the launcher runs one system."""

    open: Callable[[Job, Any, Emulation | None], Opened]
    """Prepares the part of this rank in a job with a plan."""
    check: Callable[[Job, Any], None]
    """Looks for everything that the ranks will load. Raises an InputError if it is not there."""
    line: Callable[[dict[str, Any]], str]
    """Says the result of a run in one line."""
    batch_size_option: str
    """The option that `with_batch_size` sets, without its dashes."""
    batch_size: Callable[[Job], int | None]
    """Counts the samples of a step over all ranks; None where the planner decides the number."""
    with_batch_size: Callable[[Job, int], Job]
    """Sets the number of samples of a step over all ranks."""
    planning: Planning = ONE_PROCESS
    training: Training | None = None
    """None: the system does all of its work at once and has no steps."""
    emulating: Emulating | None = None
    simulate: Callable[[Job], Simulated] | None = None
    """Plans a job and plays the plan."""


def driver(job: Job) -> Driver:
    """The driver of a job's system."""
    return cast(Driver, importlib.import_module(DRIVERS[job.system]).DRIVER)


def own_code(job: Job) -> tuple[str, ...]:
    """The import paths of foreign code that a job of its system names."""
    return tuple(filter(by_path.is_foreign, getattr(getattr(job, job.system), "own_code", ())))


def required(part: Part | None, job: Job, command: str) -> Part:
    """The part of a driver that a command needs.

    Raises:
        InputError: the job's system does not have it.
    """
    if part is None:
        raise InputError(
            f"--system {job.system}: has no `launch {command}`; `launch run` runs it here"
        )
    return part


def plan_job(job: Job, *, may_measure: bool) -> Any:
    """The plan of a job that runs on this machine or under a foreign launcher.

    Args:
        may_measure: whether figures that are missing are measured here first.

    Raises:
        InputError: whatever is wrong with the job.
    """
    check_checkpoints(job)
    return driver(job).planning.plan(job, may_measure)


def check_checkpoints(job: Job) -> None:
    """Raise an InputError if the job asks for checkpoints and its system can save none of it."""
    training = driver(job).training
    flag: str | None = f"--system {job.system}"
    if training is not None:
        flag = training.without_checkpoints(job)
    if job.checkpoint_every and flag is not None:
        raise InputError(
            f"--checkpoint-every {job.checkpoint_every}: {flag} saves no checkpoints; leave it out"
        )


def read_plan(job: Job, table: Any, where: str) -> Any:
    """The plan of a job from its JSON in the file `where`."""
    return schema.read(driver(job).planning.plan_type, table, where)


def roles(job: Job, plan: Any) -> Sequence[str]:
    """The role of every rank."""
    return driver(job).planning.roles(job, plan)


def training_line(result: Mapping[str, Any]) -> str:
    """The result of a training run in one line: throughput, step time beside what was predicted
    or simulated, and accuracy if it was tested."""
    step = result["step_s"]
    known = {way: result.get(f"{way}_step_s") for way in ("simulated", "predicted")}
    beside = [f"{way}: {s * 1e3:.2f} ms" for way, s in known.items() if s is not None]
    tested = result.get("test_accuracy")
    accuracy = "" if tested is None else f", test accuracy {tested:.2%}"
    if "no_test_accuracy" in result:
        accuracy = f", no test accuracy: {result['no_test_accuracy']}"
    return (
        f"{result['samples_per_s']:,.0f} samples/s, step {step['median'] * 1e3:.2f} ms "
        f"[{step['low'] * 1e3:.2f}, {step['high'] * 1e3:.2f}] n={step['n']} "
        f"({', '.join(beside) or 'predicted: n/a'}){accuracy}"
    )
