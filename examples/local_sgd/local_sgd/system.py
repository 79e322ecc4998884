"""The object that the testbed finds, and all that needs no torch: options, plan, simulation."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from systems.clusters.cluster import Link
from systems.clusters.sized import profile_of, sized_cluster
from systems.flags import refuse_below_one
from systems.job import Job
from systems.profiles.emulation import Emulation
from systems.profiles.profile import ModelProfile
from systems.runs.record import Step
from systems.schema import InputError
from systems.simulate import Program, Timeline, simulate
from systems.system import Emulating, Opened, Planning, Simulated, System, Training, training_line


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train replicas of a small network on digits, and average their parameters now and then."""

    period: int = 1
    """Average after every so many steps. 1 is synchronous data parallelism."""
    synchronous_steps: int = 0
    """Average after each of so many first steps, whatever the period: post-local SGD."""
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
        local = step + 1 - self.synchronous_steps
        return local <= 0 or local % self.period == 0 or step + 1 == self.steps

    def measured(self, first_step: int) -> range:
        """The steps that are measured: whole periods, after the first, where the run has them."""
        begin = max(first_step, self.synchronous_steps) + self.period
        return range(min(begin, self.steps - 1), self.steps)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """There is nothing to decide; a plan holds what is predicted."""

    step_s: float | None = None
    """The mean seconds of a step; None for real runs, whose steps no profile predicts."""


def plan(job: Job, may_measure: bool = False) -> Plan:
    """The plan of a real run. Refuses what the options and the job do not allow together."""
    options, ranks, every = job.options, job.world_size, job.checkpoint_every
    if options.batch_size % ranks:
        raise InputError(
            f"--local_sgd.batch-size {options.batch_size}: the {ranks} ranks take equal parts; "
            f"give a multiple of {ranks}"
        )
    if every and not all(options.averages(step - 1) for step in range(every, options.steps, every)):
        raise InputError(
            f"--checkpoint-every {every}: replicas differ between averages; give a multiple of "
            f"--local_sgd.period {options.period}"
        )
    if job.transport != "torch":
        raise InputError(f"--transport {job.transport}: averages travel by torch; leave it out")
    return Plan()


def costs(job: Job) -> tuple[ModelProfile, Link]:
    """What a rank's part of a step costs, and the link of every rank."""
    target = sized_cluster(job.cluster, job.world_size)
    profile = profile_of(job.profile, target)
    return profile.at_batch_size(job.options.batch_size // job.world_size), target.slowest_link


def predicted(job: Job) -> Plan:
    """The plan of a run that is emulated or simulated: nothing overlaps."""
    plan(job)
    profile, link = costs(job)
    average_s = link.all_reduce_s(profile.parameter_bytes, job.world_size)
    return Plan(step_s=profile.forward_s + profile.backward_s + average_s / job.options.period)


def played(job: Job) -> tuple[Timeline, float]:
    """Play two periods; returns what happened when, and the mean seconds of a step."""
    (profile, link), ranks = costs(job), range(job.world_size)
    program, ready = Program(link.latency_s), list[int]()
    seconds = profile.forward_s + profile.backward_s
    for _ in range(2):
        for _ in range(job.options.period):
            done = [program.compute(f"rank {r}", seconds, name="step", after=ready) for r in ranks]
        ready = [program.all_reduce(ranks, profile.parameter_bytes, name="average", after=done)]
    timeline = simulate(program, link)
    return timeline, timeline.end_s / (2 * job.options.period)


def simulated(job: Job) -> Simulated:
    """Plan a job and play it."""
    made, (timeline, step_s), options = predicted(job), played(job), job.options
    result = {"step_s": step_s, "predicted_step_s": made.step_s}
    result |= {"samples_per_step": options.batch_size, "samples_per_s": options.batch_size / step_s}
    what = f"{job.world_size} replicas, averaged every {options.period} steps, on {job.cluster}"
    return Simulated(job=job, plan=made, spans=timeline.spans(), result=result, what=what)


def open_part(job: Job, made: Plan, emulation: Emulation | None) -> Opened:
    """Prepare this rank's replica."""
    from local_sgd.training import opened

    return opened(job, None if emulation is None else costs(job)[0], emulation)


def summarize(
    job: Job, made: Plan, ranks: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """The result of a run, with the bytes that every rank has sent, as the kernel counts them."""
    from systems.runs import window

    options, scale = job.options, 1.0 if emulation is None else emulation.scale
    sent = [rank[-1].metrics.get("tcp_sent_bytes_per_step") for rank in ranks[: job.world_size]]
    return {
        **window.summarize(
            ranks, job.world_size, options.batch_size, emulation, steps_together=options.period
        ),
        "predicted_step_s": made.step_s,
        "test_accuracy": ranks[0][-1].metrics.get("test_accuracy"),
        "sent_bytes_per_step": [value and value * scale for value in sent],
    }


def resized(job: Job, size: int) -> Job:
    """The job with other ranks, of which each takes as many samples as before."""
    samples = job.options.batch_size // job.world_size * size
    return dataclasses.replace(job, world_size=size).with_options(batch_size=samples)


SYSTEM = System(
    name="local_sgd",
    options=Options,
    open=open_part,
    line=training_line,
    batch_size_option="local_sgd.batch-size",
    batch_size=lambda job: job.options.batch_size,
    with_batch_size=lambda job, samples: job.with_options(batch_size=samples),
    planning=Planning(plan=plan, plan_type=Plan, resized=resized),
    training=Training(summarize=summarize, without_checkpoints=lambda job: None),
    emulating=Emulating(
        plan=predicted,
        predicted_step_s=lambda made: made.step_s,
        simulated_step_s=lambda job, made: played(job)[1],
    ),
    simulate=simulated,
    experiments="local_sgd.experiment:EXPERIMENTS",
)
