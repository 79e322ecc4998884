"""SparsePipe as a system of the testbed. Every way to run a sparse network is one `Scheme`: in
`single`, in `pipelines`, or in `emulated` for clusters that are not here. What all of them share is
here."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsepipe.names import DATA
from sparsepipe.options import OWN, Options
from sparsepipe.system import shaping
from sparsepipe.system.emulated import (
    EMULATED,
    check_cluster,
    emulated_step_s,
    link_rates,
    plan_emulated,
    predicted_step_s,
    simulate,
    simulated_step_s,
)
from sparsepipe.system.scheme import NAMED_HERE, Plan, Scheme
from sparsepipe.system.single import SINGLE
from sparsepipe.train.clouds import load_clouds
from systems import by_path
from systems.clusters.cluster import Cluster
from systems.flags import named_as_given
from systems.job import Job
from systems.named_files import absolute_data, absolute_path, absolute_profile
from systems.profiles.profile import ModelProfile
from systems.runs.training_line import training_line
from systems.system import Command, Emulating, Planning, Shaping, System, Training


def _scheme(job: Job) -> Scheme:
    """The way in which a job runs on this machine."""
    options = job.options
    if options.mode == "train" and options.scheme == "single":
        return SINGLE
    from sparsepipe.system.pipelines import SCHEMES

    return SCHEMES["infer" if options.mode == "infer" else options.scheme]


def _scheme_of_plan(job: Job, plan: Plan) -> Scheme:
    """The way in which a plan runs: a plan for a cluster is emulated, unless it has stages."""
    return EMULATED if plan.pipeline is not None and not plan.stages else _scheme(job)


@named_as_given(NAMED_HERE)
def _plan(job: Job, may_measure: bool) -> Plan:
    """The plan of a job that runs on this machine.

    Raises:
        InputError: the wrong number of ranks, or stages that do not fit the network.
    """
    check_cluster(job)
    return _scheme(job).plan(job, may_measure)


@named_as_given(NAMED_HERE)
def _plan_shaped(job: Job, cluster: Cluster, profiles: Mapping[str, ModelProfile]) -> Plan:
    """The plan of a job on a shaped cluster; without the planner where the job says itself what
    every rank does."""
    return shaping.plan(job, cluster, profiles) or _scheme(job).plan(job, False)


def _resized(job: Job, world_size: int) -> Job:
    """Leave out cuts, plan and cluster, which are for another number of ranks."""
    job = dataclasses.replace(job, world_size=world_size, cluster=Job.cluster)
    return job.with_options(cuts=None, plan=None)


def _plan_measured(jobs: Sequence[Job]) -> list[Plan]:
    """Plans that cut the network alike: by layer times that are measured for the first of them."""
    plans: list[Plan] = []
    for job in jobs:
        first = next((plan for plan in plans if plan.stages), None)
        if first is not None and job.options.cuts is None:
            job = job.with_options(cuts=_cuts(first))
        plans.append(_plan(job, True))
    return plans


def _cuts(plan: Plan) -> tuple[int, ...]:
    """The layers at which the stages of a plan begin, but for the first stage."""
    return tuple(stage.first for stage in plan.stages[1:])


def _resolved(job: Job, plan: Plan) -> Job:
    """The job with the cuts that were chosen."""
    if not plan.stages or plan.pipeline is not None or job.options.plan is not None:
        return job
    return job.with_options(cuts=_cuts(plan))


def _roles(job: Job, plan: Plan) -> Sequence[str]:
    """A worker, or the stages of every rank; ranks without any are idle."""
    names = _scheme_of_plan(job, plan).roles(job, plan)
    return [*names, *["idle"] * (job.world_size - len(names))]


def _check(job: Job, plan: Plan) -> None:
    """Find the data, the backend, and what is named by import path."""
    options = job.options
    if options.backend != "native":  # which is always there
        from sparsepipe.engine.backends import backend

        backend(options.backend)
    if options.own_code:
        from sparsepipe.train.workload import check_own

        check_own(options, job.seed)
    else:
        load_clouds(options, job.seed)


def _samples(metrics: Sequence[Mapping[str, float]]) -> float | None:
    """Every rank tells the samples of the whole mini-batch."""
    return max((of_rank.get("samples", 0) for of_rank in metrics), default=0) or None


def _line(result: dict[str, Any]) -> str:
    """The result in one line, with how busy the ranks were."""
    text = training_line(result)
    if "mean_step_s" in result:
        text += f", mean {result['mean_step_s'] * 1e3:.2f} ms"
    if "latency_s" in result:
        text += f", latency {result['latency_s'] * 1e3:.2f} ms"
    if "utilisation" in result:
        text += ", utilisation " + " ".join(f"{busy:.0%}" for busy in result["utilisation"])
    return text


def _absolute_paths(options: Options, folders: Sequence[Path]) -> Options:
    """The options with absolute paths of data, plan, profiles and the user's own code."""
    named = {name: getattr(options, name) for name in OWN}
    changed: dict[str, Any] = {
        name: value and by_path.absolute(value, folders) for name, value in named.items()
    }
    absolute = by_path.absolute if by_path.is_path(options.data, DATA) else absolute_data
    profiles = options.profiles.split(",")
    return dataclasses.replace(
        options,
        data=absolute(options.data, folders),
        plan=options.plan and absolute_path(options.plan, folders),
        profiles=",".join(absolute_profile(name, folders) for name in profiles),
        **changed,
    )


SYSTEM = System(
    name="sparsepipe",
    options=Options,
    open=lambda job, plan, emulation: _scheme_of_plan(job, plan).open(job, plan, emulation),
    rank_modules=("sparsepipe.system.pipelines", "sparsepipe.train.one_process"),
    check=_check,
    line=_line,
    planning=Planning(
        plan_type=Plan,
        plan=_plan,
        plan_measured=_plan_measured,
        resized=_resized,
        resolved=_resolved,
        roles=_roles,
    ),
    training=Training(
        summarize=lambda job, plan, everyone, emulation: _scheme_of_plan(job, plan).summarize(
            job, plan, everyone, emulation
        ),
        samples=_samples,
        without_checkpoints=lambda job: _scheme(job).without_checkpoints,
        no_prediction=lambda job: _scheme(job).no_prediction,
    ),
    emulating=Emulating(
        plan=plan_emulated,
        link_rates=link_rates,
        predicted_step_s=predicted_step_s,
        emulated_step_s=emulated_step_s,
        simulated_step_s=simulated_step_s,
    ),
    shaping=Shaping(
        profiled=shaping.profiled,
        profile=shaping.profile,
        plan=_plan_shaped,
        simulated_step_s=shaping.simulated_step_s,
    ),
    simulate=simulate,
    absolute_paths=_absolute_paths,
    code_named=lambda options: tuple(filter(by_path.is_foreign, options.own_code)),
    experiments="sparsepipe.experiments:EXPERIMENTS",
    paper="sparsepipe.experiments:PAPER",
    commands={
        "plan sparsepipe": Command(
            main="sparsepipe.system.plan_command:main",
            what="partition a model over unequal devices",
        ),
        "profile sparsepipe": Command(
            main="sparsepipe.system.profile_command:main",
            what="measure a sparse network's layers on this machine",
        ),
        "bench sparse": Command(
            main="sparsepipe.system.bench_command:main",
            what="sparse convolution against other engines and dense",
        ),
    },
    doctor="sparsepipe.system.doctor:checks",
)
