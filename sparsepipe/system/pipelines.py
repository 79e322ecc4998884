"""The ways to run a sparse network on several ranks of this machine: a pipeline that trains, one
that only infers, and the pipeline of DeepSpeed. Planning them traces the network with torch."""

import dataclasses
from typing import Any

from sparsepipe.engine.backends import backend
from sparsepipe.planner.stages import ScheduleChoice
from sparsepipe.schedule.lists import roles
from sparsepipe.system.scheme import Plan, Scheme, network_in_words, opener
from sparsepipe.train import deepspeed_baseline, infer, pipelined, stages as pipeline_stages
from sparsepipe.train.plan_file import load_checked_plan
from sparsepipe.train.workload import open_workload
from systems.gpus import on_gpus
from systems.job import Job
from systems.schema import InputError


def _check_several_ranks(job: Job) -> None:
    """Raise an InputError for a pipeline of one rank."""
    if job.world_size < 2:
        raise InputError(f"--world-size {job.world_size}: a pipeline needs ranks; give 2 or more")


def _plan_deepspeed(job: Job, may_measure: bool) -> Plan:
    """Check the job; DeepSpeed itself cuts the network."""
    _check_several_ranks(job)
    deepspeed_baseline.check_deepspeed(job.options)
    return Plan()


def _plan_pipeline(job: Job, may_measure: bool) -> Plan:
    """The stages of the job's plan file, or else a stage a rank: at the cuts that the options
    give, or by layer times where they may be measured."""
    _check_several_ranks(job)
    options = job.options
    backend(options.backend)
    workload = open_workload(options, job.seed)
    if options.plan is not None:
        plan = load_checked_plan(options)
        pipeline_stages.check_stages(plan.stages, workload, job.world_size)
        return Plan(stages=plan.stages, schedule=plan.schedule)
    if may_measure and options.cuts is None:
        device = "cuda" if on_gpus(job.device, job.world_size) else "cpu"
        cuts = pipeline_stages.balanced_cuts(workload, job.world_size, device)
        options = dataclasses.replace(options, cuts=cuts)
    return Plan(
        stages=pipeline_stages.stages_at_cuts(options, workload, job.world_size),
        schedule=pipeline_stages.schedule_choice_of(options),
    )


def _schedule(plan: Plan) -> ScheduleChoice:
    """The schedule of a plan that `_plan_pipeline` has made."""
    assert plan.schedule is not None
    return plan.schedule


def _predicted(plan: Plan) -> dict[str, Any]:
    """What a result says of the plan of a shaped run, which has a prediction."""
    if plan.pipeline is None:
        return {}
    prediction = plan.pipeline.prediction
    return {"planner": plan.pipeline.planner, "predicted_step_s": prediction.step_s}


def _pipeline_roles(job: Job, plan: Plan) -> list[str]:
    """The stages of every rank."""
    return roles(pipeline_stages.schedule_of(plan.stages, _schedule(plan), 1))


def _deepspeed_title(job: Job, plan: Plan) -> str:
    """The baseline and the size of its dense volumes, in words."""
    options = job.options
    cells = deepspeed_baseline.cells_per_side(options.voxel_size)
    return (
        f"DeepSpeed's PipelineModule, dense twin of {options.model} x {options.width:g}, "
        f"{cells}^3 cells"
    )


TRAINED = Scheme(
    plan=_plan_pipeline,
    roles=_pipeline_roles,
    open=opener(
        lambda job, plan: f"{_schedule(plan).name}, {network_in_words(job.options)}",
        lambda job, plan, world, workload, tracer, checkpoints: pipelined.train_in_pipeline(
            plan.stages, _schedule(plan), world, workload, tracer, checkpoints
        ),
    ),
    summarize=lambda job, plan, everyone, emulation: {
        **pipelined.summarize_pipeline(job.options, plan.stages, _schedule(plan), everyone),
        **_predicted(plan),
    },
)
INFERRED = Scheme(
    plan=_plan_pipeline,
    roles=_pipeline_roles,
    open=opener(
        lambda job, plan: f"forward, {network_in_words(job.options)}",
        lambda job, plan, world, workload, tracer, checkpoints: infer.infer_in_pipeline(
            plan.stages, world, workload, tracer
        ),
    ),
    summarize=lambda job, plan, everyone, emulation: infer.summarize_inference(
        infer.inference_schedule(plan.stages, job.options.steps), everyone
    ),
    without_checkpoints="--sparsepipe.mode infer",
    no_prediction="the planner predicts steps of training, not of inference",
)
DEEPSPEED = Scheme(
    plan=_plan_deepspeed,
    roles=lambda job, plan: [f"stage {rank}" for rank in range(job.world_size)],
    open=opener(
        _deepspeed_title,
        lambda job, plan, world, workload, tracer, checkpoints: (
            deepspeed_baseline.train_with_deepspeed(job.options, world, workload)
        ),
        who="a stage a rank",
    ),
    summarize=lambda job, plan, everyone, emulation: deepspeed_baseline.summarize_deepspeed(
        job.options, everyone[0]
    ),
    without_checkpoints="--sparsepipe.scheme deepspeed",
    no_prediction="the planner knows no pipelines of DeepSpeed",
)
SCHEMES = {"pipeline": TRAINED, "infer": INFERRED, "deepspeed": DEEPSPEED}
"""The ways by --sparsepipe.scheme; `infer` is the other mode of the pipeline."""
