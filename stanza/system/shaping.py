"""Plans a Stanza job for a shaped cluster, from the layers as its ranks run them."""

import time
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from stanza.options import ZERO_STAGES
from stanza.planner.candidates import costs_at
from stanza.planner.plan import Plan, enlarged, plan as plan_stanza
from stanza.planner.simulated import played_plan
from stanza.planner.simulated.steps import steps_on
from systems import by_path
from systems.clusters.cluster import Cluster
from systems.job import Job
from systems.profiles.profile import ModelProfile, with_fixed_parts
from systems.schema import InputError

if TYPE_CHECKING:
    from systems.network.together import Timer

REPETITIONS = 3
"""How often each layer is timed."""


def profiled(job: Job) -> Hashable:
    """Return the parts of a job on which its profile depends."""
    options = job.options
    what = (options.model, options.data, options.image_shape, options.classes, options.loss)
    return (*what, batch_sizes(job))


def batch_sizes(job: Job) -> tuple[int, ...]:
    """The numbers of samples at which layers are measured, the larger first: a whole step's, which
    an FC worker may get, and a rank's share of them."""
    size = job.world_size
    whole = job.options.samples_per_step(size)
    return tuple(sorted({whole, max(1, whole // size)}, reverse=True))


def profile(job: Job, kind: str, together: "Timer") -> ModelProfile:
    """The layers of a job's model on this rank, at two numbers of samples.

    Args:
        kind: what the profile calls the device.
        together: see `systems.network.together`.
    """
    profiles = [_profile_at(job, kind, batch_size, together) for batch_size in batch_sizes(job)]
    return with_fixed_parts(*profiles) if len(profiles) > 1 else profiles[0]


def _profile_at(job: Job, kind: str, batch_size: int, together: "Timer") -> ModelProfile:
    """The layers at one number of samples.

    A rank that is held to a share of a core runs at full speed or stands still. So the processor
    time of a layer says what part of a step it is, and whole steps say how long all of them take.
    """
    import torch

    from stanza.train.data import open_data
    from stanza.train.optimization import loss_of
    from stanza.train.workload import model_of
    from stanza.workers.loss import summed
    from systems.profiles.measured_profile import profile_model

    options, known = job.options, job.options.inputs
    data = open_data(
        options.data, image_shape=known.image_shape, classes=known.classes, seed=job.seed
    )
    rows = [row % len(data.train) for row in range(batch_size)]
    with torch.random.fork_rng(devices=[]):
        model = model_of(options, data)
        images, _ = data.train.batch(rows)
        alone = profile_model(
            model,
            images,
            name=by_path.short(options.model),
            device_kind=kind,
            repetitions=REPETITIONS,
            clock=time.process_time,
        )
        loss_sum = summed(loss_of(options))

        def step() -> None:
            """A step of training but for the optimizer, which no profile has."""
            images, targets = data.train.batch(rows)
            model.zero_grad()
            (loss_sum(model(images), targets) / len(images)).backward()

        step_s = together(step)
    factor = step_s / (alone.forward_s + alone.backward_s)
    return alone.slowed(factor, "whole steps of all ranks at once")


def plan(job: Job, cluster: Cluster, profiles: Mapping[str, ModelProfile]) -> Plan:
    """The plan of a job. Where nodes differ, nothing is predicted, and nothing may be left to the
    planner."""
    options, size = job.options, job.world_size
    if options.scheme in ZERO_STAGES:
        raise InputError(
            f"--stanza.scheme {options.scheme}: DeepSpeed starts its own ranks; use "
            "testbed run without --shape"
        )
    if not _predictable(cluster):
        return plan_stanza(options, size, None, None)
    (measured,) = profiles.values()
    return plan_stanza(options, size, _alike(cluster), in_core_seconds(measured, cluster))


def simulated_step_s(
    job: Job, plan: Plan, cluster: Cluster, profiles: Mapping[str, ModelProfile]
) -> float | None:
    """The step time of the plan in the simulator, in seconds; None where nodes differ, or for one
    process."""
    if not _predictable(cluster) or plan.chosen is None:
        return None
    (measured,) = profiles.values()
    cluster, measured = enlarged(job.options, cluster, in_core_seconds(measured, cluster))
    at = costs_at(job.options, measured)
    try:
        network = cluster.network
        steps = steps_on(network)
        return played_plan(job.options, plan.layout, at, network, steps=steps).step_s
    except InputError:  # the simulator does not know this variant
        return None


def in_core_seconds(measured: ModelProfile, cluster: Cluster) -> ModelProfile:
    """The profile as a planner wants it of ranks of one machine: in the core seconds of a rank that
    is alone, where it was taken by the clock while all ranks computed."""
    if cluster.host is None:
        return measured
    return measured.slowed(cluster.host.cores_of_rank(cluster.size), "core seconds of a rank alone")


def _predictable(cluster: Cluster) -> bool:
    """Whether all nodes are alike, as the planner wants them."""
    first = cluster.nodes[0]
    return all((n.devices, n.link) == (first.devices, first.link) for n in cluster.nodes)


def _alike(cluster: Cluster) -> Cluster:
    """The same cluster under one name for all of its nodes."""
    return replace(cluster, nodes=(replace(cluster.nodes[0], count=cluster.size),))
