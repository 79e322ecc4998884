"""`testbed plan sparsepipe`: plan a pipeline for a cluster from profiles of its devices.

python -m launch plan sparsepipe --profiles tv,txp --cluster titan-8
python -m launch plan sparsepipe --profiles tv,txp --devices TitanV=1,TitanXp=3 --virtual-stages 4
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsepipe.planner import plan as planner
from sparsepipe.planner.baselines import BASELINES
from sparsepipe.planner.plan import Plan
from sparsepipe.planner.stages import DeviceTimes, ScheduleName
from sparsepipe.planner.target import check_links, cluster_of, target_cluster
from sparsepipe.system.scheme import ranks_in_words
from sparsepipe.train.planned import profiles_by_kind
from systems.clusters import cluster
from systems.clusters.cluster import Cluster
from systems.flags import parse_flags, refuse_below_one
from systems.profiles.profile import ModelProfile
from systems.runs import record
from systems.schema import InputError

DEFAULT_CLUSTER = "titan-8"
"""The cluster of the paper, whose devices have the shipped profiles."""


@dataclass(frozen=True, kw_only=True)
class PlanArguments:
    """Partition a model over unequal devices."""

    profiles: str = "tv,txp"
    """The profiles, one for every kind of device: shipped ones (tv, txp, rtx) or JSON files, with
    commas between them."""
    cluster: str | None = None
    """The cluster to plan for: a preset or a TOML file. None: titan-8 if the profiles are of its
    devices, else one device of each profile, on links of --bandwidth-bits-per-s."""
    devices: str | None = None
    """How many devices to use of each kind, such as TitanV=1,TitanXp=3. None: all of the
    cluster."""
    bandwidth_bits_per_s: float | None = None
    """The rate of all links, instead of the rates that the cluster states."""
    batch_size: int | None = None
    """The samples in a mini-batch. None takes the batch size of the profiles."""
    schedule: ScheduleName = "1f1b-async"
    """The schedule, by which mini-batches follow one another."""
    micro_batches: int | None = None
    """The micro-batches in a mini-batch, for a schedule that flushes. None takes the best
    number."""
    virtual_stages: int = 1
    """The largest number of stages in a plan whose devices may hold several. With 1, every device
    holds one stage."""
    out: str | None = None
    """A new JSON file to which the plan is written as well."""


def main(arguments: Sequence[str]) -> None:
    """Plan, print the plan beside the baselines, write it if a file is named."""
    flags = parse_flags(PlanArguments, arguments, "testbed plan sparsepipe", PlanArguments())
    if flags.out is not None:
        record.check_new_file(Path(flags.out))
    counts = {
        "batch-size": flags.batch_size,
        "micro-batches": flags.micro_batches,
        "virtual-stages": flags.virtual_stages,
    }
    refuse_below_one({name: (n,) for name, n in counts.items() if n is not None})
    rate = flags.bandwidth_bits_per_s
    if rate is not None and not 0 < rate < float("inf"):
        raise InputError(f"--bandwidth-bits-per-s {rate:g}: give more than 0; 10 Gb/s is 10e9")
    profiles = profiles_by_kind(flags.profiles, flags.batch_size)
    name = flags.cluster or DEFAULT_CLUSTER
    named = cluster.load(name)
    if flags.cluster is None and not profiles.keys() >= set(named.kinds):
        target = cluster_of(profiles, flags.devices, rate)
    else:
        target = target_cluster(named, flags.devices, rate)
    check_links(target, name)
    plan = planner.partition(
        profiles,
        target,
        schedule=flags.schedule,
        micro_batches=flags.micro_batches,
        virtual_stages=flags.virtual_stages,
    )
    others = planner.baseline_plans(
        profiles, target, schedule=flags.schedule, micro_batches=flags.micro_batches
    )
    if flags.out is not None:
        planner.save_plan(plan, Path(flags.out))
    print(describe_plan(plan, profiles, others))


def describe_plan(plan: Plan, profiles: dict[str, ModelProfile], others: Sequence[Plan]) -> str:
    """The plan as text: the figures that it was made from, a table of the stages and one of the
    devices, the predicted step, and a table of the baselines. Devices with equal figures are
    together on a line."""
    schedule, prediction = plan.schedule, plan.prediction
    order = schedule.order
    micro = f", micro-batches {schedule.micro_batches}"
    if order is not None:
        micro = f", in flight {', '.join(map(str, order.in_flight))}"
        micro += ", late updates" if order.late_updates else ""
    lines = [
        f"plan sparsepipe | tier simulated (planner, no processes) | {plan.model}, batch "
        f"{plan.batch_size}, on {plan.cluster.name}, {schedule.name}{micro}, {plan.planner}",
        *(
            f"  profile {kind}, sha256 {digest[:12]}: {profiles[kind].source}"
            for kind, digest in plan.profiles.items()
        ),
        f"  cluster: {_links(plan.cluster)}; {plan.cluster.source}",
        f"  {'stage':>5}{'layers':>9}{'forward ms':>12}{'backward':>10}{'transfer':>10}"
        f"{'all-reduce':>12}   ranks device share of each",
    ]
    for number, (stage, times) in enumerate(zip(plan.stages, prediction.stages, strict=True)):
        shares = ((one.rank, f"{one.device} {one.share:.3g}") for one in stage.replicas)
        replicas = "; ".join(f"{ranks} {share}" for ranks, share in _alike(shares))
        lines.append(
            f"  {number:>5}{f'{stage.first}-{stage.end - 1}':>9}{times.forward_s * 1e3:>12.1f}"
            f"{times.backward_s * 1e3:>10.1f}{times.transfer_s * 1e3:>10.1f}"
            f"{times.all_reduce_s * 1e3:>12.1f}   {replicas}"
        )
    lines.append(f"  {'device':12}{'compute ms':>11}{'link ms':>9}{'memory GB':>17}   ranks")
    figures = ((device.rank, _figures(device)) for device in prediction.devices)
    lines += [f"  {figure}   {ranks}" for ranks, figure in _alike(figures)]
    lines.append(
        f"  step {prediction.step_s * 1e3:.1f} ms, {plan.samples_per_s:.1f} samples/s, "
        f"{plan.above_bound:.1%} above the fractional bound of {plan.bound_s * 1e3:.1f} ms"
    )
    lines.append(
        f"  {'baseline':32}{'step ms':>9}{'samples/s':>11}{'above bound':>13}{'x plan':>8}"
    )
    for other in others:
        step_s = other.prediction.step_s
        fits = "" if planner.fits_memory(other) else "   does not fit into memory"
        lines.append(
            f"  {other.planner:32}{step_s * 1e3:>9.1f}{other.samples_per_s:>11.1f}"
            f"{other.above_bound:>13.1%}{step_s / prediction.step_s:>7.2f}x{fits}"
        )
    answered = {other.planner for other in others}
    lines += [
        f"  {name:32}      no answer for these devices"
        for name in BASELINES
        if name not in answered
    ]
    return "\n".join(lines)


def _figures(device: DeviceTimes) -> str:
    """What a plan says of a device, in columns."""
    limit, memory = device.memory_limit_bytes, f"{device.memory_bytes / 1e9:.2f}"
    memory += "" if limit is None else f" of {limit / 1e9:.1f}"
    times = f"{device.compute_s * 1e3:>11.1f}{device.transfer_s * 1e3:>9.1f}"
    return f"{device.device:12}{times}{memory:>17}"


def _alike(texts: Iterable[tuple[int, str]]) -> list[tuple[str, str]]:
    """The ranks, in words, of which a plan says the same, and what it says.

    Args:
        texts: (rank, what it says of it), as printed.
    """
    ranks: dict[str, list[int]] = {}
    for rank, text in texts:
        ranks.setdefault(text, []).append(rank)
    return [(ranks_in_words(alike), text) for text, alike in ranks.items()]


def _links(target: Cluster) -> str:
    """The nodes of a cluster, with the rates of the links that the planner has used."""
    rates = []
    for node in target.nodes:
        devices = ", ".join(f"{device.count} {device.kind}" for device in node.devices)
        inside = node.device_link.bandwidth_bits_per_s if node.device_link else None
        between = "" if inside is None else f", {inside / 1e9:g} Gb/s inside"
        if inside is None and sum(device.count for device in node.devices) > 1:
            between = ", the same assumed inside, where no device_link is stated"
        outside = node.link.bandwidth_bits_per_s or 0
        rates.append(f"{node.count} x {node.name} ({devices}) at {outside / 1e9:g} Gb/s{between}")
    return "; ".join(rates)
