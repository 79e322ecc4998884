"""Speculative sampling under the launcher: see `launch.drivers.Driver`. One process, no plan."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launch.drivers import Opened, Simulated
from launch.job import Job
from systems import schema
from systems.profiles.emulation import Emulation
from systems.runs.record import Step
from systems.runs.trace import Tracer
from systems.schema import InputError

if TYPE_CHECKING:
    from systems.network.distributed import World
    from systems.runs.checkpoint import Checkpoints

SCORES = ("word_error_rate", "rouge_1", "rouge_2", "rouge_l")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One process does all."""


def plan_job(job: Job, *, may_measure: bool) -> Plan:
    """Nothing is left to decide.

    Raises:
        InputError: more than one rank.
    """
    if job.world_size != 1:
        raise InputError(
            f"--world-size {job.world_size}: speculative sampling runs in one process; give 1"
        )
    return Plan()


def for_world(job: Job, world_size: int) -> Job:
    """The job as it is: one process."""
    return job


def plan_measured(alike: Sequence[Job]) -> list[Plan]:
    """Nothing is measured."""
    return [plan_job(job, may_measure=False) for job in alike]


def read_plan(table: Any, where: str) -> Plan:
    """A plan from its JSON."""
    return schema.read(Plan, table, where)


def resolved(job: Job, plan: Plan) -> Job:
    """The job as it is."""
    return job


def roles(job: Job, plan: Plan) -> Sequence[str]:
    """A worker."""
    return ["worker"]


def with_batch_size(job: Job, samples: int) -> Job:
    """Samples that are decoded together."""
    options = dataclasses.replace(job.speculative, batch_size=samples)
    return dataclasses.replace(job, speculative=options)


def batch_size(job: Job) -> int | None:
    """Samples that are decoded together."""
    return job.speculative.batch_size


def check(job: Job, plan: Plan) -> None:
    """Are the models there?

    Raises:
        InputError: a folder without a model, or a name that neither the hub nor its cache has.
    """
    from speculative.tasks import checkpoint

    options = job.speculative
    checkpoint.check(options.task, options.target_path, "--speculative.target")
    if options.method != "none":
        checkpoint.check(options.task, options.draft_path, "--speculative.draft")


def open(job: Job, plan: Plan, emulation: Emulation | None) -> Opened:
    """The pair and the task."""
    from speculative.tasks.evaluate import evaluate

    options = job.speculative

    def steps(world: "World", tracer: Tracer, checkpoints: "Checkpoints") -> Iterator[Step]:
        result: Any = evaluate(options, seed=job.seed, device=world.device)
        yield Step(0, result)

    return Opened(
        scheme=f"{options.method} verification, gamma {options.gamma}"
        if options.method != "none"
        else "target alone",
        roles="1 worker",
        data=f"{options.task}: {options.data or 'as the pair was trained on'}",
        last=0,
        steps=steps,
    )


def summarize(
    job: Job, plan: Plan, everyone: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """What `speculative.tasks.evaluate.evaluate` found, and its speed in samples."""
    found: dict[str, Any] = dict(everyone[0][0].metrics)
    return {**found, "samples_per_s": found["samples"] / found["total_s"]}


def samples(metrics: Sequence[Mapping[str, float]]) -> float | None:
    """There is one step, which is the whole run."""
    return None


def line(result: dict[str, Any]) -> str:
    """Scores with their intervals, acceptance and speed."""
    found = {name: result[name] for name in SCORES if name in result}
    scores = [
        f"{name} {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
        for name, score in found.items()
    ]
    accepted = result["acceptance_rate"]
    helped = "" if accepted is None else f"acceptance rate {accepted:.3f}, "
    return (
        f"{', '.join(scores)} (95 %, {result['samples']} samples); {helped}"
        f"{result['tokens_per_target_step']:.2f} tokens per target step, "
        f"{result['tokens_per_s']:,.0f} tokens/s"
    )


def plan_emulated(job: Job) -> Plan:
    """Nothing to emulate.

    Raises:
        InputError: always.
    """
    raise InputError(f"--system {job.system}: runs in one process, and is not emulated")


def simulate(job: Job) -> Simulated:
    """Nothing to simulate.

    Raises:
        InputError: always.
    """
    raise InputError(f"--system {job.system}: runs in one process, and is not simulated")
