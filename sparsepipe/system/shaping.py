"""Plans a pipeline for a shaped cluster, from the layers as its ranks run them."""

import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from sparsepipe.system.scheme import Plan
from sparsepipe.train.planned import ProfiledPlan, plan_from_profiles
from systems import by_path
from systems.clusters.cluster import Cluster
from systems.job import Job
from systems.profiles.profile import ModelProfile, with_fixed_parts

if TYPE_CHECKING:
    from sparsepipe.runtime.batch import Batch
    from systems.network.together import Timer

REPETITIONS = 5
"""How often a mini-batch is timed layer by layer."""
SMALLER, LEAST_SAMPLES = 4, 2
"""The fixed parts of times are found with a mini-batch of a quarter of the samples, or of two."""


def profiled(job: Job) -> Hashable:
    """What of a job its profile depends on."""
    options = job.options
    return (
        *(options.data, options.points, options.normals, options.voxel_size, options.batch_size),
        *(options.model, options.width, options.backend, options.loss, options.optimizer),
    )


def profile(job: Job, kind: str, together: "Timer") -> ModelProfile:
    """The layers of a job's network on this rank, for one mini-batch.

    A rank that is held to a share of a core runs at full speed or stands still. So the processor
    time of a layer says what part of a step it is, and whole steps say how long all of them take.
    Updates are parts of these steps. The samples are made by whoever has the first layer, in a
    thread beside the steps (`sparsepipe.train.batches`): what that thread takes counts as part of
    its forward pass. (Where voxels have labels the last stage makes its samples too, which is not
    counted.)

    Args:
        kind: what the profile calls the device.
        together: see `systems.network.together`.
    """
    from sparsepipe.runtime.network import Network
    from sparsepipe.runtime.values import take_samples
    from sparsepipe.train.optimizers import make_optimizer
    from sparsepipe.train.profiling import fresh, profile_network
    from sparsepipe.train.workload import open_workload

    workload = open_workload(job.options, job.seed)
    order, model = workload.order(), workload.network()
    endless = replace(job.options, lr_schedule="constant", lr_schedule_options=())
    optimizer = make_optimizer(endless, model.parameters())

    def make() -> "Batch":
        """Make the next mini-batch."""
        epoch, clouds = next(order)
        return workload.voxels([workload.data.train.cloud(index, epoch) for index in clouds])

    def making_s() -> float:
        """The processor time of making a mini-batch, on the thread that does it."""
        began_s = time.thread_time()
        make()
        return time.thread_time() - began_s

    def step() -> None:
        """A step of training, with samples that are there."""
        model.zero_grad()
        workload.loss_sum(model(fresh(batch.inputs)), batch.targets).backward()
        optimizer.step()

    timed = partial(
        profile_network,
        Network(model),
        name=by_path.short(job.options.model),
        device_kind=kind,
        repetitions=REPETITIONS,
        clock=time.process_time,
    )

    batch = make()
    inputs = batch.inputs
    layers, few = timed(inputs), max(LEAST_SAMPLES, job.options.batch_size // SMALLER)
    if few < job.options.batch_size:
        layers = with_fixed_parts(layers, timed(*take_samples((inputs,), range(few))))
    step()  # so that there are gradients
    alone = _with_updates(layers, _processor_s(optimizer.step))
    step_s = together(step)
    factor = step_s / sum(x.forward_s + x.backward_s + x.update_s for x in alone.layers)
    samples_s = factor * median(_made_beside(step, making_s) for _ in range(REPETITIONS))
    return _with_samples(alone.slowed(factor, "whole steps of all ranks at once"), samples_s)


def _made_beside(step: Callable[[], object], making_s: Callable[[], float]) -> float:
    """What a thread finds that measures beside a step of training."""
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(making_s)
        step()
        return made.result()


def _processor_s(function: Callable[[], object]) -> float:
    """The processor time of a call, in seconds."""
    began_s = time.process_time()
    for _ in range(REPETITIONS):
        function()
    return (time.process_time() - began_s) / REPETITIONS


def _with_samples(profile: ModelProfile, samples_s: float) -> ModelProfile:
    """A profile whose first layer takes so many seconds more, for the samples of a mini-batch."""
    first, *others = profile.layers
    first = replace(first, forward_s=first.forward_s + samples_s)
    return replace(profile, layers=(first, *others))


def _with_updates(profile: ModelProfile, update_s: float) -> ModelProfile:
    """A profile whose layers update their parameters, in so many seconds together."""
    each_s = update_s / max(1, profile.parameter_bytes)
    layers = [replace(layer, update_s=layer.parameter_bytes * each_s) for layer in profile.layers]
    return replace(profile, layers=tuple(layers))


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
