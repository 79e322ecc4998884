"""Finds what a Stanza job is planned with: the cluster with its link, and a profile of the model.
What is not known is measured on this machine."""

from functools import lru_cache
from typing import Any

from stanza.models import ARCHITECTURES, build_model, is_own
from stanza.options import Options
from stanza.planner import plan as stanza_plan
from stanza.planner.baselines import baseline_options
from stanza.planner.plan import Plan
from stanza.system.measuring import device_here, measure_here, measure_rank
from stanza.system.mixed import equal_if_alike, on_mixed_cluster, plan_mixed_job
from systems import by_path
from systems.clusters.cluster import Cluster
from systems.clusters.sized import simulated_cluster, sized_cluster
from systems.job import Job
from systems.profiles.profile import ModelProfile, files_by_kind
from systems.schema import InputError

HERE = "local"
"""The preset that stands for this machine; its devices and its link are measured."""


def plan_stanza_job(job: Job, *, may_measure: bool, in_order: bool = False) -> Plan:
    """The plan of a job.

    Args:
        in_order: whether ranks run on the nodes in the order of the cluster's file, where these
            differ; else the plan says who runs where.
        may_measure: whether figures of the cluster or the model that are missing are measured
            first. They are measured only if the job leaves a choice ("auto") to the planner.

    Raises:
        InputError: see stanza.planner.plan.plan.
    """
    if on_mixed_cluster(job):
        return plan_mixed_job(job, in_order=in_order)
    job = equal_if_alike(job)
    options = job.options
    auto = "auto" in (options.fc_workers, options.fc_parallel, options.fc_placement)
    needs_figures = options.scheme == "stanza" and auto
    basis = planning_basis(job, measure=needs_figures and may_measure)
    if basis is None:
        return stanza_plan.plan(job.options, job.world_size, None, None)
    return stanza_plan.plan(job.options, job.world_size, *basis)


def planning_basis(
    job: Job, *, measure: bool, target: Cluster | None = None
) -> tuple[Cluster, ModelProfile] | None:
    """The cluster and the profile that a job is planned with; None if one of them is not known.

    Args:
        measure: whether what is not known is measured, so that the answer is never None.
        target: the cluster, with a node for every rank; None loads the one that the job names.

    Raises:
        InputError: nodes that are not alike, links of unknown rate, no profile of the cluster's
            kind of device, or one of another model.
    """
    target = target or sized_cluster(job.cluster, job.world_size)
    known = target.network_is_known
    if not known and job.cluster != HERE:
        raise InputError(
            f"--cluster {job.cluster}: bandwidth_bits_per_s of a link is not known, and only "
            "this machine's loopback can be measured; state it in the file"
        )
    profile = _profile_at_hand(job, target)
    if (profile is None or not known) and not measure:
        return None
    if profile is None:
        _check_measurable(job, target)
        ranks = job.world_size if job.cluster == HERE else 1
        profile = measure_rank(job.options, ranks, job.device)
    return (target if known else measure_here(target, profile)), profile


def unknown_figures(job: Job) -> list[str]:
    """The options of a job that nobody has given and whose figures would be measured here.

    Raises:
        InputError: see `planning_basis`.
    """
    if on_mixed_cluster(job, simulated=True):
        return []  # what is not known of it is refused
    target = simulated_cluster(job.cluster, job.world_size).planned
    unknown = {
        "profile": _profile_at_hand(job, target) is None,
        "cluster": not target.network_is_known,
    }
    return [name for name, missing in unknown.items() if missing]


def resolved(job: Job, plan: Plan) -> Job:
    """The job with the answers of its plan written in, so that it runs again without planning."""
    if not plan.shares:
        job = equal_if_alike(job)
    changes: dict[str, Any] = {
        "micro_batches": plan.layout.micro_batches,
        "fc_parallel": plan.layout.fc_parallel,
        "fc_placement": plan.layout.fc_placement,
        "batch_shares": job.options.batch_shares
        if plan.shares
        else equal_if_alike(job).options.batch_shares,
    }
    if plan.layout.scheme == "stanza":
        changes["fc_workers"] = len(plan.layout.ranks("fc"))
    elif job.options.scheme == "stanza":  # the planner has chosen not to separate
        assert plan.chosen is not None
        changes |= baseline_options(plan.chosen.scheme)
    return job.with_options(**changes)


def _profile_at_hand(job: Job, target: Cluster) -> ModelProfile | None:
    """The profile that the job names, or the one of its model that ships, if there is one.

    Raises:
        InputError: it is of another model, or of another kind of device than the cluster has.
    """
    model = by_path.short(job.options.model)
    if job.profile is None and not _ships(job.options):
        return None
    profile = stanza_plan.load_profile(
        files_by_kind(job.profile, target.kinds).get(target.kinds[0], model)
        if job.profile is None or "=" in job.profile
        else job.profile
    )
    if profile.name != model:
        raise InputError(
            f"--profile {job.profile}: is of {profile.name}, the model is {model}; "
            "give a profile of that model"
        )
    if is_own(job.options.model):
        _check_layers(job, profile)
    kind = target.kinds[0]
    if profile.device == kind or (job.cluster == HERE and profile.device == device_here()):
        return profile
    if job.profile is not None:
        raise InputError(
            f"--profile {job.profile}: was taken on {profile.device}, and the devices of --cluster "
            f"{job.cluster} are {kind}; give a profile of that device, or write kind = "
            f'"{profile.device}" in a cluster file if it is the same'
        )
    if job.cluster == HERE:
        return None
    raise InputError(
        f"--cluster {job.cluster}: its devices are {kind}, and the profile of {model} that ships "
        f"was taken on {profile.device}; make one on {kind} with `testbed profile stanza` and give "
        "it with --profile"
    )


def _check_layers(job: Job, profile: ModelProfile) -> None:
    """Raise an InputError if a model of the user's own has changed since its profile was taken."""
    from stanza.train.data import input_of

    inputs = job.options.inputs
    image_shape, classes = inputs.image_shape, inputs.classes
    if job.options.data and (image_shape is None or classes is None):
        image_shape, classes = input_of(job.options)
    difference = _difference(job.options.model, classes, image_shape, profile)
    if difference is not None:
        raise InputError(
            f"--profile {job.profile}: is not of --stanza.model {job.options.model} as it is now: "
            f"{difference}; profile it again with `launch profile stanza`"
        )


@lru_cache  # a sweep asks for every point
def _difference(
    model: str, classes: int | None, image_shape: tuple[int, ...] | None, profile: ModelProfile
) -> str | None:
    """Build a model, and say where it differs from its profile; see `stanza.models.layers`."""
    import torch

    from stanza.models.layers import difference

    with torch.random.fork_rng(devices=[]):  # weights are drawn
        return difference(build_model(model, classes, image_shape), profile, image_shape)


def _ships(options: Options) -> bool:
    """Whether a profile of the model ships, for the inputs that the options give it."""
    known = ARCHITECTURES.get(options.model)
    if known is None or options.model not in stanza_plan.shipped_profiles():
        return False
    return (options.inputs.image_shape, options.inputs.classes) == (
        known.image_shape,
        known.classes,
    )


def _check_measurable(job: Job, target: Cluster) -> None:
    """Raise an InputError if a profile is missing and this machine cannot measure it, because the
    devices of the cluster are of another kind."""
    kind = target.kinds[0]
    if job.cluster != HERE and kind != device_here():
        raise InputError(
            f"--stanza.model {job.options.model}: no profile of it ships, the devices of --cluster "
            f"{job.cluster} are {kind}, and this machine's is {device_here()}; make a profile on "
            f"{kind} with `testbed profile stanza` and give it with --profile"
        )
