"""What a system is to the testbed: one object of the class `System`, and the parts it is made of.

The testbed's command line knows a system by this object alone. Who adds one writes a package with
a module such as

    # ring/system.py
    SYSTEM = System(name="ring", options=Options, open=open_part, check=check, ...)

and names the object in the package's pyproject.toml, where the testbed finds it:

    [project.entry-points."systems_testbed.systems"]
    ring = "ring.system:SYSTEM"

Then `testbed run --system ring --ring.steps 7` works, and so does all else for which the object has
the parts. What a system cannot do it says by not having the part: without `simulate`, for example,
`testbed simulate` refuses the system in one line. In what follows:

- A job is everything that determines a run (`systems.job.Job`); `job.options` are the options of
  its system, as the class `System.options` defines them.
- A plan says which rank does what. A system without a planner has none, and runs in one process.
- "module:attribute" is a string that names code. It is imported when it is first needed, so that
  the module of the `System` itself needs to import little. It must not import torch: the process
  that only plans a run and starts its ranks does without, which saves seconds.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from systems.clusters.cluster import Cluster
from systems.clusters.sized import link_rates_of
from systems.job import J, Job, job_type
from systems.profiles.emulation import Emulation
from systems.profiles.profile import ModelProfile
from systems.runs.record import Step
from systems.runs.trace import Tracer
from systems.runs.training_line import training_line
from systems.schema import InputError

if TYPE_CHECKING:  # torch is for ranks; who plans and starts them does without
    from systems.network.distributed import World
    from systems.network.together import Timer
    from systems.runs.checkpoint import Checkpoints

EMULATED_STEP_S = 0.7
"""Seconds that an emulated step lasts where a system does not say otherwise."""


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

    step_s: float | None = None
    """The predicted seconds of a step; None where nothing predicts them."""


@dataclass(frozen=True, kw_only=True)
class Planning:
    """How a system decides which rank does what. Plans are dataclasses that JSON can hold."""

    plan: Callable[[Job, bool], Any]
    """Makes the plan of a job. The flag says whether figures that are missing may be measured
    here first. Raises an InputError for whatever is wrong with the job."""
    plan_type: type = NoPlan
    """The class of the plans."""
    plan_measured: Callable[[Sequence[Job]], list[Any]] | None = None
    """Makes the plans of several jobs of one world size, all from one measurement of this machine.
    None: each of them is planned by itself."""
    resized: Callable[[Job, int], Job] = lambda job, size: dataclasses.replace(job, world_size=size)
    """Fits a job to another number of ranks. What was planned for the old number is left open."""
    resolved: Callable[[Job, Any], Job] = lambda job, plan: job
    """Writes the answers of a plan into the job, so that it runs again without planning."""
    roles: Callable[[Job, Any], Sequence[str]] = lambda job, plan: ["worker"] * job.world_size
    """Names the role of every rank, for messages."""

    def plans(self, jobs: Sequence[Job]) -> list[Any]:
        """The plans of several jobs of one world size, with what may be measured here first."""
        if self.plan_measured is not None:
            return self.plan_measured(jobs)
        return [self.plan(job, True) for job in jobs]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is made of the steps of a system that works in steps."""

    summarize: Callable[[Job, Any, list[list[Step]], Emulation | None], dict[str, Any]]
    """Makes the result of a run (`samples_per_s`, `step_s` and more) from a plan and the steps of
    every rank. Steps of earlier attempts may follow those of the ranks of this world; see
    `systems.runs.record.former_steps`. `systems.runs.window.summarize` does most of it."""
    samples: Callable[[Sequence[Mapping[str, float]]], float | None] = lambda metrics: (
        sum(of_rank.get("samples", 0) for of_rank in metrics) or None
    )
    """Counts the samples of one step from the metrics of the ranks; None if they do not say.
    Without it, every rank tells its own."""
    without_checkpoints: Callable[[Job], str | None] = lambda job: f"--system {job.system}"
    """Names the flag of the job that rules out checkpoints; None if it can have them."""
    no_prediction: Callable[[Job], str] = lambda job: f"{job.system} predicts no step times"
    """Says why no planner has predicted the step time of such a job."""


@dataclass(frozen=True, kw_only=True)
class Emulating:
    """How a system runs on an emulated cluster."""

    plan: Callable[[Job], Any]
    """Makes the plan of a job from a profile of the devices. Raises an InputError for whatever is
    wrong with the job, and for links of unknown rate."""
    predicted_step_s: Callable[[Any], float | None] = lambda plan: plan.step_s
    """Gives the step time of a plan on the real cluster in seconds, if the planner knows it.
    Without it, plans are `NoPlan`s."""
    simulated_step_s: Callable[[Job, Any], float]
    """Plays a plan on the job's cluster in the simulator and gives the step time in seconds."""
    link_rates: Callable[[Job, Any, Emulation], tuple[float, ...]] = lambda job, plan, emulation: (
        link_rates_of(job.cluster, job.world_size, emulation)
    )
    """Gives the rate of the emulated link of every rank, in bits per second. Without it, every rank
    is a node of the job's cluster, whose nodes are alike."""
    emulated_step_s: Callable[[Any], float] = lambda plan: EMULATED_STEP_S
    """Says how many seconds an emulated step of a plan should last. The Python of the ranks
    themselves must take little time beside it."""


@dataclass(frozen=True, kw_only=True)
class Shaping:
    """How the step time of a shaped run is predicted: from what is measured of its cluster."""

    profiled: Callable[[Job], Hashable]
    """What of a job its profile depends on. Jobs for which it is equal share one."""
    profile: Callable[[Job, str, "Timer"], ModelProfile]
    """Measures the layers of a job's model on this rank, while all ranks do the same. It gets the
    kind of this rank's device, and a function that times another one meanwhile."""
    plan: Callable[[Job, Cluster, Mapping[str, ModelProfile]], Any]
    """Makes the plan of a job for a cluster whose links and devices were measured. Raises an
    InputError for whatever is wrong with the job."""
    simulated_step_s: Callable[[Job, Any, Cluster, Mapping[str, ModelProfile]], float | None] = (
        lambda job, plan, cluster, profiles: None
    )
    """Plays a plan on such a cluster and gives the step time in seconds; None: it does not."""


def _plan_one_process(job: Job, may_measure: bool) -> NoPlan:
    """Refuse more than one rank: nothing would say what the others do."""
    if job.world_size != 1:
        raise InputError(f"--world-size {job.world_size}: {job.system} runs in one process; give 1")
    return NoPlan()


ONE_PROCESS = Planning(plan=_plan_one_process)
"""The planning of a system that has none of its own: one process, which is called a worker."""
EQUAL_RANKS = Planning(plan=lambda job, may_measure: NoPlan())
"""The planning of a system whose ranks all do the same: any number of workers."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of a system's own."""

    main: str
    """"module:attribute" of a function that is called with the words after the command. For bad
    input it raises an InputError, which the user reads as one line."""
    what: str
    """What the command does, in a few words, for `testbed --help`."""


@dataclass(frozen=True, kw_only=True)
class System:
    """All that the testbed knows of one system."""

    name: str
    """The name, a word of small letters, digits and underscores, which is that of the entry point
    too. It names the table of the options in a job file, and their flags: `--NAME.steps 7`."""
    options: type
    """The options of a job: a frozen dataclass, each of whose fields has a default and, below it, a
    string that is its help text. `__post_init__` raises an InputError for what is wrong."""
    open: Callable[[Job, Any, Emulation | None], Opened]
    """Prepares the part of this rank in a job with a plan. It runs in every rank. The emulation is
    None unless the system has the part `emulating` and the run is emulated."""
    check: Callable[[Job, Any], None] = lambda job, plan: None
    """Looks for everything that the ranks of a job with a plan will load, before any of them is
    started. Raises an InputError if it is not there."""
    rank_modules: tuple[str, ...] = ()
    """The modules that `open` and its steps import. A launcher that forks its ranks imports them
    first, so that they are imported once. They may import torch, and must touch no GPU."""
    line: Callable[[dict[str, Any]], str] = lambda result: training_line(result)
    """Says the result of a run in one line. Without it, `training_line` does: it needs the
    `samples_per_s` and the `step_s` of a system that works in steps."""
    batch_size_option: str = ""
    """The option that `with_batch_size` sets, without its dashes. Empty: "NAME.batch-size"."""
    batch_size: Callable[[Job], int | None] = lambda job: job.options.batch_size
    """Counts the samples of a step over all ranks; None where the planner decides the number."""
    with_batch_size: Callable[[Job, int], Job] = lambda job, samples: job.with_options(
        batch_size=samples
    )
    """Sets the number of samples of a step over all ranks."""

    planning: Planning = ONE_PROCESS
    """How it decides which rank does what. Without it, the system runs in one process."""
    training: Training | None = None
    """What is made of its steps. None: it does all of its work at once and has no steps."""
    emulating: Emulating | None = None
    """How it runs on an emulated cluster, for `testbed emulate`. None: it does not."""
    shaping: Shaping | None = None
    """How the step time of `testbed run --shape` is predicted. None: it runs, without a
    prediction."""
    simulate: Callable[[Job], Simulated] | None = None
    """Plans a job and plays the plan without processes, for `testbed simulate`. None: it cannot."""

    measured_first: Callable[[Job], Sequence[str]] = lambda job: ()
    """Lists the options of a job, such as "profile", whose figures are missing, so that `simulate`
    measures them on this machine first. A sweep refuses such points: every one would be played with
    figures of its own, and they would differ by what else the machine does."""

    absolute_paths: Callable[[Any, Sequence[Path]], Any] = lambda options, folders: options
    """Makes the paths of files in options absolute: it gets options, and the folders in which a
    relative path is looked for, and returns options. `systems.named_files` has the functions for
    one path. Needed where an option names a file."""
    code_named: Callable[[Any], Sequence[str]] = lambda options: ()
    """Lists the import paths (`systems.by_path`) among the options, so that no record of somebody
    else's runs code that the user has not allowed. Needed where an option names code."""
    experiments: str = ""
    """"module:attribute" of its `systems.figures.experiment.Experiment`s, for `testbed reproduce`.
    Empty: it has none."""
    paper: str = ""
    """"module:attribute" of the `systems.figures.paper.Paper` that it implements, for the report.
    Empty: it has none."""
    commands: Mapping[str, Command] = field(default_factory=dict)
    """Commands of its own, by the one or two words that call them. `plan NAME`, `profile NAME` and
    `bench NAME` join the commands of this kind that other systems have."""
    doctor: str = ""
    """"module:attribute" of a function that returns a list of `systems.finding.Finding`, which
    `testbed doctor` prints: what this system finds here and what it lacks. Empty: it needs nothing
    but what the testbed needs."""
    jobs: Path | None = None
    """The folder of its ready job files, which the package ships. None: it has none."""

    def __post_init__(self) -> None:
        if not self.batch_size_option:
            object.__setattr__(self, "batch_size_option", f"{self.name}.batch-size")

    def job(self, options: Any = None, **fields: Any) -> Job:
        """A job of this system.

        Args:
            options: an instance of `options`; None takes the defaults.
            fields: other fields of the job, such as `world_size`.
        """
        return self.command_job(Job, options, **fields)

    def command_job(self, base: type[J], options: Any = None, **fields: Any) -> J:
        """A job of this system with the flags of a command's own, which `base` adds to `Job`."""
        if options is not None:
            fields[self.name] = options
        return job_type(base, self.name, self.options)(**fields)
