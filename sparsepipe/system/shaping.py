"""Plans a pipeline for a shaped cluster, from the layers as its ranks run them."""

import time
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

from sparsepipe.system.scheme import Plan
from sparsepipe.train.planned import ProfiledPlan, plan_from_profiles
from systems import by_path
from systems.clusters.cluster import Cluster
from systems.job import Job
from systems.profiles.profile import ModelProfile

if TYPE_CHECKING:
    from systems.network.together import Timer

REPETITIONS = 2
"""How often a mini-batch is timed layer by layer."""


def profiled(job: Job) -> Hashable:
    """What of a job its profile depends on."""
    options = job.options
    of_data = (options.data, options.voxel_size, options.batch_size)
    return (*of_data, options.model, options.width, options.backend, options.loss)


def profile(job: Job, kind: str, together: "Timer") -> ModelProfile:
    """The layers of a job's network on this rank, for one mini-batch.

    A rank that is held to a share of a core runs at full speed or stands still. So the processor
    time of a layer says what part of a step it is, and whole steps say how long all of them take.
    They include the making of mini-batches, which every rank does for itself.

    Args:
        kind: what the profile calls the device.
        together: see `systems.network.together`.
    """
    from sparsepipe.runtime.network import Network
    from sparsepipe.train.profiling import fresh, profile_network
    from sparsepipe.train.workload import open_workload

    workload = open_workload(job.options, job.seed)
    batches = workload.mini_batches()
    model = workload.network()
    alone = profile_network(
        Network(model),
        next(batches).inputs,
        name=by_path.short(job.options.model),
        device_kind=kind,
        repetitions=REPETITIONS,
        clock=time.process_time,
    )

    def step() -> None:
        """A step of training but for the optimizer, which no profile has."""
        batch = next(batches)
        model.zero_grad()
        workload.loss_sum(model(fresh(batch.inputs)), batch.targets).backward()

    step_s = together(step)
    batches.close()
    factor = step_s / (alone.forward_s + alone.backward_s)
    return alone.slowed(factor, "whole steps of all ranks at once")


def plan(job: Job, cluster: Cluster, profiles: Mapping[str, ModelProfile]) -> Plan | None:
    """The planner's plan, or that of the baseline which the job names. None where the job says
    itself how the network is cut, or runs in another way.

    Raises:
        InputError: links that differ, or a baseline without an answer.
    """
    options = job.options
    pipeline = options.scheme == "pipeline" and options.mode == "train"
    if not pipeline or options.plan is not None or options.cuts is not None:
        return None
    planned = plan_from_profiles(options, cluster, dict(profiles)).plan
    return Plan(stages=planned.stages, schedule=planned.schedule, pipeline=planned)


def simulated_step_s(
    job: Job, plan: Plan, cluster: Cluster, profiles: Mapping[str, ModelProfile]
) -> float | None:
    """The step time of the plan in the simulator, in seconds; None for a plan of another kind."""
    if plan.pipeline is None:
        return None
    return ProfiledPlan(plan=plan.pipeline, profiles=profiles).played.step_s
