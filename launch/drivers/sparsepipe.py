"""SparsePipe under the launcher: see `launch.drivers.Driver`."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launch.drivers import Opened, Simulated, training_line
from launch.job import Job, named_as_given
from sparsepipe.options import Options
from sparsepipe.planner import plan as planner
from sparsepipe.planner.stages import PlannedStage, ScheduleChoice
from sparsepipe.planner.target import check_links, target_cluster
from sparsepipe.train.clouds import load_clouds
from sparsepipe.train.plan_file import check_planned_for, load_plan
from sparsepipe.train.planned import Planned, described, plan_pipeline, with_profiles
from systems import schema
from systems.clusters import cluster
from systems.profiles.emulation import Emulation
from systems.runs.record import Step
from systems.runs.trace import Tracer
from systems.schema import InputError

if TYPE_CHECKING:
    from systems.network.distributed import World
    from systems.runs.checkpoint import Checkpoints

STEP_S = 0.3
"""How long an emulated step should last: the ranks' own Python is then small beside it."""
FEW_RANKS = 4
"""More ranks than these get more time, in proportion: they share this machine's cores."""

NAMED_HERE = {
    name: f"sparsepipe.{name}"
    for name in (
        *("profiles", "devices", "bandwidth-bits-per-s", "batch-size", "schedule"),
        *("micro-batches", "virtual-stages"),
    )
}
"""What options of `launch plan sparsepipe` are called in a job."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who does what; one process does all where there are no stages."""

    stages: tuple[PlannedStage, ...] = ()
    schedule: ScheduleChoice | None = None
    pipeline: planner.Plan | None = None
    """Of a pipeline on a cluster, emulated or simulated."""


@named_as_given(NAMED_HERE)
def plan_job(job: Job, *, may_measure: bool) -> Plan:
    """Stages of what trains here: of the job's plan, or a stage a rank.

    Raises:
        InputError: the wrong number of ranks, or stages that do not fit the network.
    """
    options = job.sparsepipe
    _check_cluster(job)
    if options.scheme == "single":
        if job.world_size != 1:
            raise InputError(
                f"--world-size {job.world_size}: one process trains with --sparsepipe.scheme "
                "single; give 1, or --sparsepipe.scheme pipeline"
            )
        return Plan()
    if job.world_size < 2:
        raise InputError(f"--world-size {job.world_size}: a pipeline needs ranks; give 2 or more")
    from sparsepipe.engine.backends import backend
    from sparsepipe.train import deepspeed_baseline as deepspeed_pipeline, stages as pipeline_stages
    from sparsepipe.train.workload import open_workload

    if options.scheme == "deepspeed":
        deepspeed_pipeline.check(options)
        return Plan()
    backend(options.backend)
    workload = open_workload(options, job.seed)
    if options.plan is not None:
        plan = load_plan(options)
        pipeline_stages.check_stages(plan.stages, workload, job.world_size)
        return Plan(stages=plan.stages, schedule=plan.schedule)
    if may_measure and options.cuts is None:
        cuts = pipeline_stages.balanced_cuts(workload, job.world_size)
        options = dataclasses.replace(options, cuts=cuts)
    stages = pipeline_stages.stages_of(options, workload, job.world_size)
    return Plan(stages=stages, schedule=pipeline_stages.kind_of(options))


def _check_cluster(job: Job) -> None:
    """Refuse a cluster that a pipeline that trains is not planned for.

    Raises:
        InputError: there is no plan, or one for another cluster.
    """
    if job.cluster == Job.cluster:  # the user has named none
        return
    options = job.sparsepipe
    if options.plan is None:
        raise InputError(
            f"--cluster {job.cluster}: what trains here is cut by layer times of this machine; "
            "leave it out, or plan with `launch plan sparsepipe --out` and give --sparsepipe.plan"
        )
    check_planned_for(load_plan(options), job.cluster, cluster.load(job.cluster), options)


def for_world(job: Job, world_size: int) -> Job:
    """Without cuts, plans and their cluster, which are for other ranks."""
    left = dataclasses.replace(job.sparsepipe, cuts=None, plan=None)
    return dataclasses.replace(job, world_size=world_size, cluster=Job.cluster, sparsepipe=left)


def plan_measured(alike: Sequence[Job]) -> list[Plan]:
    """The layers' times of the first pipeline's network cut all of them that leave it open."""
    plans: list[Plan] = []
    for job in alike:
        first = next((p.stages for p in plans if p.stages), None)
        if first is not None and job.sparsepipe.cuts is None:
            cuts = tuple(stage.first for stage in first[1:])
            job = dataclasses.replace(
                job, sparsepipe=dataclasses.replace(job.sparsepipe, cuts=cuts)
            )
        plans.append(plan_job(job, may_measure=True))
    return plans


def read_plan(table: Any, where: str) -> Plan:
    """A plan from its JSON."""
    return schema.read(Plan, table, where)


def resolved(job: Job, plan: Plan) -> Job:
    """The job with the cuts that were chosen."""
    options = job.sparsepipe
    if not plan.stages or options.plan is not None:
        return job
    cuts = tuple(stage.first for stage in plan.stages[1:])
    return dataclasses.replace(job, sparsepipe=dataclasses.replace(options, cuts=cuts))


def roles(job: Job, plan: Plan) -> Sequence[str]:
    """A worker, or each rank's stages."""
    if job.sparsepipe.scheme == "single":
        return ["worker"]
    from sparsepipe.pipeline import run as pipeline
    from sparsepipe.train import stages as pipeline_stages

    if plan.pipeline is not None:
        named = pipeline.roles(_planned(job, plan).schedule(1))
    elif plan.schedule is not None:
        named = pipeline.roles(pipeline_stages.schedule_of(plan.stages, plan.schedule, 1))
    else:
        named = [f"stage {rank}" for rank in range(job.world_size)]
    return [*named, *["idle"] * (job.world_size - len(named))]


def _planned(job: Job, plan: Plan) -> Planned:
    assert plan.pipeline is not None  # of an emulated run, `plan_emulated` made it
    return with_profiles(plan.pipeline, job.sparsepipe)


def with_batch_size(job: Job, samples: int) -> Job:
    """Clouds in a mini-batch."""
    options = dataclasses.replace(job.sparsepipe, batch_size=samples)
    return dataclasses.replace(job, sparsepipe=options)


def batch_size(job: Job) -> int | None:
    """Clouds in a mini-batch."""
    return job.sparsepipe.batch_size


def check(job: Job, plan: Plan) -> None:
    """Find the data and the backend."""
    if job.sparsepipe.backend != "native":  # which is always there
        from sparsepipe.engine.backends import backend

        backend(job.sparsepipe.backend)
    load_clouds(job.sparsepipe, job.seed)


def open(job: Job, plan: Plan, emulation: Emulation | None) -> Opened:
    """Network and data; or a pipeline's stand-ins that wait as the profiles say."""
    if emulation is not None:
        return _open_emulated(job, _planned(job, plan), emulation)
    from sparsepipe.train import (
        deepspeed_baseline as deepspeed_pipeline,
        infer,
        one_process as train,
        pipelined as train_pipeline,
    )
    from sparsepipe.train.workload import open_workload

    options = job.sparsepipe
    workload = open_workload(options, job.seed)
    schedule, stages = plan.schedule, plan.stages

    def steps(world: "World", tracer: Tracer, checkpoints: "Checkpoints") -> Iterator[Step]:
        if options.scheme == "deepspeed":
            return deepspeed_pipeline.run(options, world, workload)
        if schedule is None:
            return train.run(options, world, workload, tracer, checkpoints)
        if options.mode == "infer":
            return infer.run(stages, world, workload, tracer)
        return train_pipeline.run(stages, schedule, world, workload, tracer, checkpoints)

    return Opened(
        scheme=_scheme(options, schedule),
        roles=_layers(stages) or ("1 worker" if job.world_size == 1 else "a stage a rank"),
        data=workload.data.kind,
        last=options.steps,
        steps=steps,
    )


def _scheme(options: Options, schedule: ScheduleChoice | None) -> str:
    """What trains, in words."""
    network = f"{options.model} x {options.width:g}"
    if options.scheme == "deepspeed":
        from sparsepipe.train import deepspeed_baseline as deepspeed_pipeline

        cells = deepspeed_pipeline.side(options.voxel_size)
        return f"DeepSpeed's PipelineModule, dense twin of {network}, {cells}^3 cells"
    name = "forward" if options.mode == "infer" else "single" if schedule is None else schedule.name
    return f"{name}, {network}, {options.backend} backend"


def _open_emulated(job: Job, planned: Planned, emulation: Emulation) -> Opened:
    from sparsepipe.train import emulated

    steady = job.sparsepipe.steps

    def steps(world: "World", tracer: Tracer, checkpoints: "Checkpoints") -> Iterator[Step]:
        return emulated.run(planned, steady, world, emulation, tracer)

    return Opened(
        scheme=f"{planned.schedule(steady).kind}, {planned.plan.planner}",
        roles=_layers(planned.plan.stages),
        data=f"waits of {planned.plan.model} on {', '.join(sorted(planned.plan.profiles))}",
        last=planned.schedule(steady).mini_batches,
        steps=steps,
    )


def _layers(stages: Sequence[PlannedStage]) -> str:
    """Layers and ranks of every stage."""
    return "; ".join(
        f"stage {number}, layers {stage.first}-{stage.end - 1}, on "
        + ",".join(str(replica.rank) for replica in stage.replicas)
        for number, stage in enumerate(stages)
    )


def summarize(
    job: Job, plan: Plan, everyone: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """See `summarize` of `sparsepipe.train.one_process`, `train_pipeline`, `infer` and
    `emulated`."""
    from sparsepipe.train import (
        deepspeed_baseline as deepspeed_pipeline,
        emulated,
        infer,
        one_process as train,
        pipelined as train_pipeline,
    )

    options = job.sparsepipe
    if emulation is not None:
        return emulated.summarize(_planned(job, plan), options.steps, everyone, emulation)
    if options.scheme == "deepspeed":
        return deepspeed_pipeline.summarize(options, everyone[0])
    if plan.schedule is None:
        return train.summarize(options, everyone[0])
    if options.mode == "infer":
        return infer.summarize(infer.schedule_of(plan.stages, options.steps), everyone)
    return train_pipeline.summarize(options, plan.stages, plan.schedule, everyone)


def samples(metrics: Sequence[Mapping[str, float]]) -> float | None:
    """Every rank tells those of the whole mini-batch."""
    return max((of_rank.get("samples", 0) for of_rank in metrics), default=0) or None


def line(result: dict[str, Any]) -> str:
    """As of any training; beside an emulated step the predicted one, and how busy ranks were."""
    text = training_line(result)
    if "predicted_step_s" in result:
        text += (
            f", mean {result['mean_step_s'] * 1e3:.2f} ms"
            f" (predicted: {result['predicted_step_s'] * 1e3:.2f} ms)"
        )
    if "latency_s" in result:
        text += f", latency {result['latency_s'] * 1e3:.2f} ms"
    if "utilisation" in result:
        text += ", utilisation " + " ".join(f"{busy:.0%}" for busy in result["utilisation"])
    return text


def simulated_step_s(job: Job, plan: Plan) -> float:
    """The schedule, played."""
    return _planned(job, plan).played.step_s


def simulate(job: Job) -> Simulated:
    """Plan and play."""
    plan = plan_emulated(job)
    planned = _planned(job, plan)
    played = planned.played
    return Simulated(
        job=job,
        plan=plan,
        spans=played.timeline.spans(),
        result={
            "predicted_step_s": None,
            **described(planned),
            "step_s": played.step_s,
            "samples_per_s": planned.plan.batch_size / played.step_s,
            "utilisation": [
                played.utilisation(rank) if rank < len(played.schedule.ranks) else 0.0
                for rank in range(len(planned.links))
            ],
            "cluster": dataclasses.asdict(planned.plan.cluster),
        },
        what=f"{played.schedule.kind}, {planned.plan.planner} | world size "
        f"{job.world_size}: {_layers(planned.plan.stages)} | {planned.plan.model}, profiles "
        f"{', '.join(sorted(planned.plan.profiles))}, cluster {planned.plan.cluster.name}",
    )


@named_as_given(NAMED_HERE)
def plan_emulated(job: Job) -> Plan:
    """From the profiles that the options name; a rank is a device.

    Raises:
        InputError: no pipeline, another number of devices than ranks, and what planning refuses.
    """
    options = job.sparsepipe
    if options.scheme != "pipeline":
        raise InputError(
            f"--sparsepipe.scheme {options.scheme}: has no links to emulate or simulate; give "
            "pipeline"
        )
    if options.plan is not None:
        _check_cluster(job)
    target = cluster.load(job.cluster)
    if options.plan is None:
        check_links(
            target_cluster(target, options.devices, options.bandwidth_bits_per_s), job.cluster
        )
    planned = plan_pipeline(options, target)
    devices = len(planned.links)
    if devices != job.world_size:
        raise InputError(
            f"--world-size {job.world_size}: cluster {planned.plan.cluster.name} has {devices} "
            f"devices, each of them a rank; give {devices}, or other --sparsepipe.devices"
        )
    return Plan(pipeline=planned.plan)


def link_rates(job: Job, plan: Plan, emulation: Emulation) -> tuple[float, ...]:
    """As the planner takes them: a device's own way to the others."""
    rates = [link.bandwidth_bits_per_s for link in _planned(job, plan).links]
    return tuple(emulation.rate_bits_per_s(rate) for rate in rates if rate is not None)


def predicted_step_s(plan: Plan) -> float | None:
    """Of the plan."""
    return None if plan.pipeline is None else plan.pipeline.prediction.step_s


def emulated_step_s(plan: Plan) -> float:
    """Longer for many ranks."""
    assert plan.pipeline is not None  # `plan_emulated` made it
    used = len(plan.pipeline.prediction.devices)
    return STEP_S * max(1.0, used / FEW_RANKS)
