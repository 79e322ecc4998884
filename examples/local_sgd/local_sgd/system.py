"""The object that the testbed finds, and all that needs no torch: options, plan, simulation."""

from dataclasses import dataclass
from typing import Any

from systems.clusters.cluster import Link
from systems.clusters.sized import profile_of, sized_cluster
from systems.flags import refuse_below_one
from systems.job import Job
from systems.profiles.emulation import Emulation
from systems.profiles.profile import ModelProfile
from systems.program import Program
from systems.runs.record import Step
from systems.schema import InputError
from systems.simulate import simulate
from systems.system import Emulating, NoPlan, Opened, Planning, Simulated, System, Training


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train replicas of a small network on digits, and average their parameters now and then."""

    period: int = 1
    """Average after every so many steps. 1 is synchronous data parallelism."""
    steps: int = 96
    """The number of steps."""
    batch_size: int = 96
    """The samples of a step over all ranks, which take equal parts."""
    learning_rate: float = 0.1
    """The learning rate."""

    def __post_init__(self) -> None:
        for name in ("period", "steps", "batch_size"):
            refuse_below_one({f"local_sgd.{name.replace('_', '-')}": [getattr(self, name)]})

    def averages(self, step: int) -> bool:
        """Whether the parameters are averaged after a step. After the last one they are."""
        return (step + 1) % self.period == 0 or step + 1 == self.steps


def plan(job: Job, may_measure: bool = False) -> NoPlan:
    """Refuse what the options and the job do not allow together."""
    options, ranks = job.options, job.world_size
    if options.batch_size % ranks:
        raise InputError(
            f"--local_sgd.batch-size {options.batch_size}: the {ranks} ranks take equal parts; "
            f"give a multiple of {ranks}"
        )
    if job.checkpoint_every % options.period:
        raise InputError(
            f"--checkpoint-every {job.checkpoint_every}: replicas differ between averages; give a "
            f"multiple of --local_sgd.period {options.period}"
        )
    if job.transport != "torch":
        raise InputError(f"--transport {job.transport}: averages travel by torch; leave it out")
    return NoPlan()


def costs(job: Job) -> tuple[ModelProfile, Link]:
    """What a rank's part of a step costs, and the link of every rank."""
    target = sized_cluster(job.cluster, job.world_size)
    profile = profile_of(job.profile, target)
    return profile.at_batch_size(job.options.batch_size // job.world_size), target.slowest_link


def predicted(job: Job) -> NoPlan:
    """The plan of a run that is emulated or simulated, with a prediction: nothing overlaps."""
    plan(job)
    profile, link = costs(job)
    average_s = link.all_reduce_s(profile.parameter_bytes, job.world_size)
    return NoPlan(step_s=profile.forward_s + profile.backward_s + average_s / job.options.period)


def simulated(job: Job) -> Simulated:
    """Play one period: the ranks compute, then their parameters go round the ring."""
    made, (profile, link), options = predicted(job), costs(job), job.options
    program, ranks, done = Program(link.latency_s), range(job.world_size), list[int]()
    seconds = profile.forward_s + profile.backward_s
    for _ in range(options.period):  # a rank does one step after the other
        done = [program.compute(f"rank {rank}", seconds, name="step") for rank in ranks]
    program.all_reduce(ranks, profile.parameter_bytes, name="average", after=done)
    timeline = simulate(program, link)
    step_s = timeline.end_s / options.period
    result = {"step_s": step_s, "predicted_step_s": made.step_s}
    result |= {"samples_per_step": options.batch_size, "samples_per_s": options.batch_size / step_s}
    what = f"{job.world_size} replicas, averaged every {options.period} steps, on {job.cluster}"
    return Simulated(job=job, plan=made, spans=timeline.spans(), result=result, what=what)


def open_part(job: Job, made: NoPlan, emulation: Emulation | None) -> Opened:
    """Prepare this rank's replica."""
    from local_sgd.training import opened

    return opened(job, None if emulation is None else costs(job)[0], emulation)


def summarize(
    job: Job, made: NoPlan, ranks: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """The result of a run. A step time is the mean over the steps of a period."""
    from systems.runs import window

    size, together = job.options.batch_size, job.options.period
    found = window.summarize(ranks, job.world_size, size, emulation, steps_together=together)
    return found | {"predicted_step_s": made.step_s}


SYSTEM = System(
    name="local_sgd",
    options=Options,
    open=open_part,
    planning=Planning(plan=plan),
    training=Training(summarize=summarize, without_checkpoints=lambda job: None),
    emulating=Emulating(
        plan=predicted, simulated_step_s=lambda job, made: simulated(job).result["step_s"]
    ),
    simulate=simulated,
    experiments="local_sgd.experiment:EXPERIMENTS",
)
