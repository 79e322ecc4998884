"""What a job on a cluster whose nodes differ is planned with: the cluster, a profile of each kind.

python -m launch plan stanza --model vgg16 --cluster lab.toml --profile A100=a.json,T4=b.json
"""

from itertools import groupby

from stanza.options import AUTO, EQUAL
from stanza.planner import plan as stanza_plan
from stanza.planner.mixed.plan import Fleet, plan_mixed
from stanza.planner.plan import Plan, shared
from stanza.planner.simulated import played_plan
from stanza.planner.simulated.steps import Simulated
from systems import by_path
from systems.clusters import cluster
from systems.clusters.cluster import SIMULATED_ONLY, Cluster
from systems.clusters.mixed import is_mixed, mixed_cluster
from systems.clusters.topology import one_device_each
from systems.job import Job
from systems.profiles.emulation import Emulation
from systems.profiles.profile import ModelProfile, files_by_kind
from systems.schema import InputError


def on_mixed_cluster(job: Job, *, simulated: bool = False) -> bool:
    """Whether the nodes of the job's cluster differ.

    Args:
        simulated: whether the simulator gets it. For that, nodes are alike where each of their
            devices has an equal part of the interface.

    Raises:
        InputError: they differ, and there are racks or faults, which are played for equal ones.
    """
    target = cluster.load(job.cluster, simulated=simulated)
    if not simulated:
        return is_mixed(target)
    mixed = is_mixed(one_device_each(target))
    for key in SIMULATED_ONLY if mixed else ():
        if getattr(target, key) is not None:
            raise InputError(
                f"--cluster {job.cluster}: {key}: is simulated for nodes that are alike, and these "
                "differ; leave it out, or give equal nodes"
            )
    return mixed


def equal_if_alike(job: Job) -> Job:
    """Replace shares by speed by equal ones where nodes are alike. This machine stays as it is: its
    preset does not say what devices its ranks run on.

    This machine stays as it is: its preset does not say what devices its ranks run on.
    """
    if (
        job.options.batch_shares != AUTO
        or cluster.load(job.cluster, simulated=True).name == "local"
    ):
        return job
    return job.with_options(batch_shares=EQUAL)


def mixed_basis(job: Job) -> tuple[Cluster, dict[str, ModelProfile]]:
    """The mixed cluster of a job, and the profile of each kind of its devices.

    Raises:
        InputError: several devices in a node, another number of nodes, links of unknown rate, or a
            kind without a profile of the job's model.
    """
    target = mixed_cluster(job.cluster, job.world_size)
    files = files_by_kind(job.profile, target.kinds)
    return target, {kind: _profile(job, files.get(kind), kind) for kind in target.kinds}


def _profile(job: Job, file: str | None, kind: str) -> ModelProfile:
    """The profile of the job's model on one kind of device.

    Raises:
        InputError: there is none, or it is of another model or device.
    """
    model = by_path.short(job.options.model)
    example = f"--profile {kind}=FILE.json"
    if file is None and model not in stanza_plan.shipped_profiles():
        raise InputError(
            f"--cluster {job.cluster}: has {kind}, of which no profile of {model} ships; make one "
            f"there with `testbed profile stanza`, and give {example}, with one for each kind "
            "between commas"
        )
    profile = stanza_plan.load_profile(file or model)
    if profile.name != model:
        raise InputError(
            f"--profile {file}: is of {profile.name}, the model is {model}; give a profile of that "
            "model"
        )
    if profile.device != kind:
        which = f"--profile {kind}={file}: was" if file else f"--cluster {job.cluster}: has {kind},"
        ships = "" if file else f" and the profile of {model} that ships was"
        raise InputError(
            f"{which}{ships} taken on {profile.device}; give a profile of {kind}, as {example}, or "
            f'write kind = "{profile.device}" in the cluster file if it is the same'
        )
    return profile


def plan_mixed_job(job: Job, *, in_order: bool = False) -> Plan:
    """The plan of a job on a mixed cluster. Nothing is measured for it. See `plan_mixed`.

    A job that leaves no choice to the planner needs no profile.
    """
    options = job.options
    choices = (options.fc_workers, options.fc_parallel, options.fc_placement)
    free = options.batch_shares == AUTO or (options.scheme == "stanza" and AUTO in choices)
    shipped = by_path.short(options.model) in stanza_plan.shipped_profiles()
    if job.profile is None and not shipped and not free:
        mixed_cluster(job.cluster, job.world_size)  # is refused if it does not fit
        return stanza_plan.plan(options, job.world_size, None, None)
    return plan_mixed(options, *mixed_basis(job), in_order=in_order)


def mixed_link_rates(job: Job, plan: Plan, emulation: Emulation) -> tuple[float, ...]:
    """The rate of the emulated link of every rank, in bits/s."""
    links = mixed_cluster(job.cluster, job.world_size).links
    rates = [links[number].bandwidth_bits_per_s for number in plan.order]
    return tuple(emulation.rate_bits_per_s(rate) for rate in rates if rate is not None)


def profile_of_rank(job: Job, plan: Plan, rank: int) -> ModelProfile:
    """The profile of the device of a rank."""
    if not plan.devices:  # all are alike
        kinds = cluster.load(job.cluster).kinds
        return stanza_plan.load_profile(
            files_by_kind(job.profile, kinds).get(kinds[0]) or job.options.model
        )
    _, profiles = mixed_basis(job)
    return profiles[plan.devices[rank]]


def play_mixed(job: Job, plan: Plan) -> Simulated:
    """Play a plan for a mixed cluster in the simulator."""
    target, profiles = mixed_basis(job)
    placed = Fleet(job.options, target, profiles).placed(plan.order)
    options = shared(job.options, plan)
    return played_plan(options, plan.layout, placed.at, placed.links)


def rates_in_words(target: Cluster, plan: Plan) -> str:
    """The link rate that was planned with, or the slowest and the fastest."""
    assert plan.bandwidth_bits_per_s is not None  # what is planned for has known rates
    slowest = f"{plan.bandwidth_bits_per_s / 1e9:.3g} Gb/s"
    rates = [link.bandwidth_bits_per_s or 0.0 for link in target.links]
    fastest = f"{max(rates) / 1e9:.3g} Gb/s"
    return f"{slowest} to {fastest}" if plan.devices and fastest != slowest else slowest


def describe_devices(target: Cluster, plan: Plan) -> list[str]:
    """Say which ranks run on which nodes, with their shares, as lines of a plan. There are none
    where all nodes are alike."""
    nodes = [node for node in target.nodes for _ in range(node.count)]
    shares = dict(zip(plan.layout.data_ranks, plan.shares, strict=True)) if plan.shares else {}
    rows = []
    for rank, (number, kind) in enumerate(zip(plan.order, plan.devices, strict=True)):
        node, share = nodes[number], shares.get(rank)
        samples = "" if share is None else f", {share} samples"
        rows.append(f"{plan.layout.roles[rank]}: {node.name} ({kind}, {node.link}){samples}")
    lines, first = list[str](), 0
    for text, same in groupby(rows):
        last = first + len(list(same)) - 1
        ranks = f"rank {first}" if first == last else f"ranks {first} to {last}"
        lines.append(f"  {ranks}, {text}")
        first = last + 1
    return lines
