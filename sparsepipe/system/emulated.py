"""A pipeline on a cluster that is not here: planned from profiles, then emulated or simulated."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sparsepipe.planner.target import check_links, cluster_of, target_cluster
from sparsepipe.schedule.lists import roles
from sparsepipe.system.scheme import NAMED_HERE, Plan, Scheme, stages_in_words
from sparsepipe.train.plan_file import check_planned_for, load_checked_plan
from sparsepipe.train.planned import ProfiledPlan, describe_plan, plan_pipeline, with_profiles
from systems.clusters import cluster
from systems.clusters.cluster import Cluster
from systems.clusters.topology import Topology, is_plain, plain, topology_of
from systems.flags import named_as_given
from systems.job import Job
from systems.profiles.emulation import Emulation
from systems.runs.record import Step
from systems.runs.trace import Tracer
from systems.schema import InputError
from systems.system import Opened, Simulated, Steps

if TYPE_CHECKING:
    from systems.network.distributed import World
    from systems.runs.checkpoint import Checkpoints

STEP_S = 0.3
"""Seconds that an emulated step should last; the Python of the ranks takes little beside it."""
FEW_RANKS = 4
"""More ranks than these get longer steps, in proportion: they share the cores of this machine."""


@named_as_given(NAMED_HERE)
def plan_emulated(job: Job, *, simulated: bool = False) -> Plan:
    """Plan a pipeline from the profiles that the options name. Every device is a rank.

    Args:
        simulated: whether it is planned for the simulator, which knows racks and faults.

    Raises:
        InputError: no pipeline, another number of devices than ranks, and what the planner
            refuses.
    """
    options = job.options
    if options.scheme != "pipeline":
        raise InputError(
            f"--sparsepipe.scheme {options.scheme}: has no links to emulate or simulate; give "
            "pipeline"
        )
    if options.plan is not None:
        check_cluster(job, simulated=simulated)
    target = plain(_target(job, simulated=simulated))
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


def _target(job: Job, *, simulated: bool) -> Cluster:
    """The cluster that the job names; else one of the devices that the options count."""
    options = job.options
    if job.cluster != Job.cluster or options.devices is None or options.plan is not None:
        return cluster.load(job.cluster, simulated=simulated)
    return cluster_of((), options.devices, options.bandwidth_bits_per_s)


def check_cluster(job: Job, *, simulated: bool = False) -> None:
    """Refuse a cluster for which a pipeline was not planned.

    Raises:
        InputError: the job names a cluster, and its plan is missing or is for another one.
    """
    if job.cluster == Job.cluster:  # the user has named none
        return
    options = job.options
    if options.plan is None:
        raise InputError(
            f"--cluster {job.cluster}: what trains here is cut by layer times of this machine; "
            "leave it out, or plan with `testbed plan sparsepipe --out` and give --sparsepipe.plan"
        )
    named = cluster.load(job.cluster, simulated=simulated)
    check_planned_for(load_checked_plan(options), job.cluster, named, options)


def _planned(job: Job, plan: Plan) -> ProfiledPlan:
    """The plan with the profiles from which it was made."""
    assert plan.pipeline is not None  # `plan_emulated` made it
    return with_profiles(plan.pipeline, job.options)


def _roles(job: Job, plan: Plan) -> list[str]:
    """The stages of every rank."""
    return roles(_planned(job, plan).schedule(1))


def _open(job: Job, plan: Plan, emulation: Emulation | None) -> Opened:
    """Prepare stand-ins for the stages, which wait as long as the profiles say."""
    assert emulation is not None  # a plan for a cluster only runs on an emulated one
    from sparsepipe.train import emulated

    planned, steady, how = _planned(job, plan), job.options.steps, emulation

    def run(world: "World", tracer: Tracer, checkpoints: "Checkpoints") -> Iterator[Step]:
        return emulated.emulate_pipeline(planned, steady, world, how, tracer)

    schedule = planned.schedule(steady)
    return Opened(
        scheme=f"{schedule.kind}, {planned.plan.planner}",
        roles=stages_in_words(planned.plan.stages),
        data=f"waits of {planned.plan.model} on {', '.join(sorted(planned.plan.profiles))}",
        work=Steps(run=run, last=schedule.mini_batches),
    )


def _summarize(
    job: Job, plan: Plan, everyone: list[list[Step]], emulation: Emulation | None
) -> dict[str, Any]:
    """The steady state, with the stretching of time undone, beside what the planner predicted."""
    from sparsepipe.train import emulated

    assert emulation is not None
    return emulated.summarize_emulation(_planned(job, plan), job.options.steps, everyone, emulation)


EMULATED = Scheme(
    plan=lambda job, may_measure: plan_emulated(job), roles=_roles, open=_open, summarize=_summarize
)


def link_rates(job: Job, plan: Plan, emulation: Emulation) -> tuple[float, ...]:
    """The rates of the emulated links in bits per second, by rank. As in the planner, a device has
    one link to all others."""
    rates = [link.bandwidth_bits_per_s for link in _planned(job, plan).links]
    return tuple(emulation.rate_bits_per_s(rate) for rate in rates if rate is not None)


def predicted_step_s(plan: Plan) -> float | None:
    """The step time that the planner predicts, in seconds."""
    return None if plan.pipeline is None else plan.pipeline.prediction.step_s


def emulated_step_s(plan: Plan) -> float:
    """How many seconds an emulated step should last; longer for many ranks."""
    assert plan.pipeline is not None  # `plan_emulated` made it
    ranks = len(plan.pipeline.prediction.devices)
    return STEP_S * max(1.0, ranks / FEW_RANKS)


def simulated_step_s(job: Job, plan: Plan) -> float:
    """The step time of the plan's schedule in the simulator, in seconds."""
    return _planned(job, plan).played.step_s


def _named(job: Job, planned: ProfiledPlan) -> Cluster:
    """The cluster of a plan, with what only the simulator knows of it."""
    options = job.options
    if job.cluster == Job.cluster:
        return planned.plan.cluster
    named = cluster.load(job.cluster, simulated=True)
    return target_cluster(named, options.devices, options.bandwidth_bits_per_s)


def _topology(named: Cluster) -> Topology | None:
    """The topology on which a job is simulated; None if the link that it was planned with says all
    about its cluster."""
    one_switch = named.size == 1 or is_plain(named)
    return None if one_switch and plain(named) == named else topology_of(named)


def simulate(job: Job) -> Simulated:
    """Plan a job and play its schedule in the simulator."""
    plan = plan_emulated(job, simulated=True)
    planned = _planned(job, plan)
    topology, target = _topology(_named(job, planned)), planned.plan.cluster
    played = planned.played
    with_faults: dict[str, Any] = {}
    if topology is not None:
        target = _named(job, planned)
        steady = job.options.steps if topology.faults else None
        played = planned.played_on(topology, steady)
        if topology.faults:
            healthy = planned.played_on(topology.without_faults(), steady)
            with_faults = {
                "faults": str(topology.faults),
                "step_s": played.mean_step_s,
                "samples_per_s": planned.plan.batch_size / played.mean_step_s,
                "step_s_without_faults": healthy.mean_step_s,
            }
    return Simulated(
        job=job,
        plan=plan,
        spans=played.trace(),
        result={
            "predicted_step_s": None,
            **describe_plan(planned),
            "step_s": played.step_s,
            "samples_per_s": planned.plan.batch_size / played.step_s,
            "utilisation": [played.utilisation(rank) for rank in range(len(planned.links))],
            "cluster": dataclasses.asdict(target),
            **with_faults,
        },
        what=f"{played.schedule.kind}, {planned.plan.planner}, "
        f"{planned.plan.above_bound:.1%} above the fractional bound | world size "
        f"{job.world_size}: {stages_in_words(planned.plan.stages)} | {planned.plan.model}, "
        f"profiles {', '.join(sorted(planned.plan.profiles))}, cluster {target.name}",
    )
