"""Simulates and emulates jobs: what is planned for them, and what their steps take."""

import dataclasses
from statistics import mean
from typing import Any

from stanza.models import is_own
from stanza.options import ZERO_STAGES
from stanza.planner.candidates import costs_at
from stanza.planner.mixed.plan import plan_mixed
from stanza.planner.plan import Plan, plan as plan_stanza
from stanza.planner.predict import unpredicted
from stanza.planner.simulated import played_plan
from stanza.planner.simulated.steps import Simulated as Played
from stanza.system.mixed import (
    equal_if_alike,
    mixed_basis,
    mixed_link_rates,
    on_mixed_cluster,
    plan_mixed_job,
    play_mixed,
)
from stanza.system.planning import planning_basis, resolved
from systems.clusters.sized import link_rates_of, simulated_cluster
from systems.clusters.topology import Topology
from systems.faulty import Network
from systems.job import Job
from systems.profiles.emulation import Emulation
from systems.profiles.profile import ModelProfile
from systems.rank_classes import PLAYED_ONE_BY_ONE
from systems.schema import InputError
from systems.system import EMULATED_STEP_S, Emulating, Simulated

MANY_MESSAGES = 2.0
"""Emulated steps last this many times longer where every rank sends to every other one, as with
servers beside all workers and with columns: so many messages keep the cores here busy."""


def _refuse_scale(job: Job, command: str) -> None:
    """Refuse a small network that stands for a large one where the large one's profile can be
    taken."""
    if job.options.message_scale != 1:
        raise InputError(
            f"--stanza.message-scale {job.options.message_scale:g}: testbed {command} plays the "
            "network as large as its profile says; leave it out"
        )


def simulate_job(job: Job) -> Simulated:
    """Plan a job and play the plan. What is not known of cluster and model is measured first."""
    _refuse_scale(job, "simulate")
    with_faults: dict[str, Any] = {}
    if on_mixed_cluster(job, simulated=True):
        target, profiles = mixed_basis(job)
        plan, kinds = plan_mixed(job.options, target, profiles), ", ".join(profiles)
        job = resolved(job, plan)
        played = play_mixed(job, plan)
    else:
        job = equal_if_alike(job)
        simulated = simulated_cluster(job.cluster, job.world_size)
        basis = planning_basis(job, measure=True, target=simulated.planned)
        assert basis is not None  # measured if need be
        (target, profile), kinds = basis, basis[1].device
        plan = plan_stanza(job.options, job.world_size, target, profile)
        job = resolved(job, plan)
        played, with_faults = _play(job, plan, profile, simulated.network(target))
        target = target if simulated.topology is None else simulated.cluster
    return Simulated(
        job=job,
        plan=plan,
        spans=played.spans(),
        result={
            "scheme": job.options.scheme_name,
            "step_s": played.step_s,
            "samples_per_step": played.samples,
            "samples_per_s": played.samples_per_s,
            "predicted_step_s": predicted_step_s(plan),
            "cluster": dataclasses.asdict(target),
            **with_faults,
        },
        what=f"{job.options.scheme_name} | world size {job.world_size}: {plan.layout.describe()} "
        f"| {job.options.model}, profile {kinds}, cluster {target.name}",
    )


def _play(
    job: Job, plan: Plan, profile: ModelProfile, network: Network
) -> tuple[Played, dict[str, Any]]:
    """Play a plan for devices that are alike.

    Returns:
        (the steps as they were played, what the result says besides where faults come and go).
    """
    options, layout, costs = job.options, plan.layout, costs_at(job.options, profile)
    every_rank = job.world_size <= PLAYED_ONE_BY_ONE
    if not isinstance(network, Topology) or not network.faults:
        return played_plan(options, layout, costs, network, every_rank=every_rank), {}
    played, healthy = (
        played_plan(options, layout, costs, each, steps=options.steps)
        for each in (network, network.without_faults())
    )
    return played, {
        "faults": str(network.faults),
        "steps_s": played.steps_s,
        "step_s_without_faults": mean(healthy.steps_s),
    }


def _plan_emulated(job: Job) -> Plan:
    """Plan from the profile of the model.

    Raises:
        InputError: there is no profile, or DeepSpeed would have to be emulated.
    """
    _refuse_scale(job, "emulate")
    if job.options.scheme in ZERO_STAGES:
        raise InputError(f"--stanza.scheme {job.options.scheme}: is not emulated; use testbed run")
    why = unpredicted(job.options)
    if why is not None:
        raise InputError(f"{why}; use testbed run")
    mixed = on_mixed_cluster(job)
    if not mixed:
        link_rates_of(job.cluster, job.world_size, Emulation())  # raises if they are not known
    if is_own(job.options.model):
        from stanza.train.data import input_of

        input_of(job.options)  # raises if nobody says, which the summary would otherwise
    if mixed:
        return plan_mixed_job(job)
    job = equal_if_alike(job)
    basis = planning_basis(job, measure=False)
    if basis is None:
        raise InputError(
            f"--stanza.model {job.options.model}: no profile says how long its layers wait; make "
            "one with `testbed profile stanza` and give it with --profile"
        )
    return plan_stanza(job.options, job.world_size, *basis)


def _simulated_step_s(job: Job, plan: Plan) -> float:
    """The step time of the plan in the simulator, in seconds."""
    if plan.devices:
        return play_mixed(job, plan).step_s
    basis = planning_basis(job, measure=False)
    assert basis is not None  # an emulated run has a profile and link rates
    target, profile = basis
    costs = costs_at(job.options, profile)
    return played_plan(job.options, plan.layout, costs, target.network).step_s


def _link_rates(job: Job, plan: Plan, emulation: Emulation) -> tuple[float, ...]:
    """The rate of the emulated link of every rank, in bits per second."""
    if plan.devices:
        return mixed_link_rates(job, plan, emulation)
    return link_rates_of(job.cluster, job.world_size, emulation)


def predicted_step_s(plan: Plan) -> float | None:
    """The step time that the planner predicts, in seconds."""
    return plan.chosen.step_s if plan.chosen else None


def _emulated_step_s(plan: Plan) -> float:
    """Say how many seconds an emulated step should last; longer where there are many messages."""
    layout = plan.layout
    servers_beside_workers = layout.scheme == "ps" and not layout.ranks("server")
    many_messages = servers_beside_workers or layout.fc_parallel == "columns"
    return EMULATED_STEP_S * (MANY_MESSAGES if many_messages else 1.0)


EMULATING = Emulating(
    plan=_plan_emulated,
    predicted_step_s=predicted_step_s,
    emulated_step_s=_emulated_step_s,
    simulated_step_s=_simulated_step_s,
    link_rates=_link_rates,
)
