"""`--sparsepipe.scheme pipeline`: a sparse network in stages, trained or run forward only."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from launch.drivers import Opened
from launch.drivers.sparsepipe.scheme import (
    Plan,
    Scheme,
    check_several_ranks,
    network_in_words,
    opened,
    stages_in_words,
)
from launch.job import Job
from sparsepipe.engine.backends import backend
from sparsepipe.pipeline import run as pipeline
from sparsepipe.planner.stages import ScheduleChoice
from sparsepipe.train import infer, pipelined, stages as pipeline_stages
from sparsepipe.train.plan_file import load_plan
from sparsepipe.train.workload import Workload, open_workload
from systems.network.distributed import World
from systems.profiles.emulated import Emulation
from systems.runs.checkpoint import Checkpoints
from systems.runs.record import Step
from systems.runs.trace import Tracer


def _plan(job: Job, may_measure: bool) -> Plan:
    """The stages of the job's plan file, or else a stage a rank: at the cuts that the options
    give, or by layer times where they may be measured."""
    check_several_ranks(job)
    options = job.sparsepipe
    backend(options.backend)
    workload = open_workload(options, job.seed)
    if options.plan is not None:
        plan = load_plan(options)
        pipeline_stages.check_stages(plan.stages, workload, job.world_size)
        return Plan(stages=plan.stages, schedule=plan.schedule)
    if may_measure and options.cuts is None:
        cuts = pipeline_stages.balanced_cuts(workload, job.world_size)
        options = dataclasses.replace(options, cuts=cuts)
    return Plan(
        stages=pipeline_stages.stages_of(options, workload, job.world_size),
        schedule=pipeline_stages.kind_of(options),
    )


def _roles(job: Job, plan: Plan) -> list[str]:
    """The stages of every rank."""
    return pipeline.roles(pipeline_stages.schedule_of(plan.stages, _schedule(plan), 1))


def _schedule(plan: Plan) -> ScheduleChoice:
    """The schedule of a plan that `_plan` has made."""
    assert plan.schedule is not None
    return plan.schedule


def _open_training(job: Job, plan: Plan, emulation: Emulation | None) -> Opened:
    """Load the clouds of a training in stages."""
    schedule = _schedule(plan)

    def train(
        world: World, workload: Workload, tracer: Tracer, checkpoints: Checkpoints
    ) -> Iterator[Step]:
        return pipelined.run(plan.stages, schedule, world, workload, tracer, checkpoints)

    name = f"{schedule.name}, {network_in_words(job.sparsepipe)}"
    return opened(job, train, name=name, roles=stages_in_words(plan.stages))


def _open_inference(job: Job, plan: Plan, emulation: Emulation | None) -> Opened:
    """Load the clouds of forward passes in stages."""

    def infer_all(
        world: World, workload: Workload, tracer: Tracer, checkpoints: Checkpoints
    ) -> Iterator[Step]:
        return infer.run(plan.stages, world, workload, tracer)

    name = f"forward, {network_in_words(job.sparsepipe)}"
    return opened(job, infer_all, name=name, roles=stages_in_words(plan.stages))


def _summarize_training(
    job: Job, plan: Plan, everyone: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """Times, losses, how busy the ranks were, and accuracy."""
    return pipelined.summarize(job.sparsepipe, plan.stages, _schedule(plan), everyone)


def _summarize_inference(
    job: Job, plan: Plan, everyone: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """Throughput and latency."""
    return infer.summarize(infer.schedule_of(plan.stages, job.sparsepipe.steps), everyone)


TRAINED = Scheme(plan=_plan, roles=_roles, open=_open_training, summarize=_summarize_training)
INFERRED = Scheme(
    plan=_plan,
    roles=_roles,
    open=_open_inference,
    summarize=_summarize_inference,
    without_checkpoints="--sparsepipe.mode infer",
    no_prediction="the planner predicts steps of training, not of inference",
)
