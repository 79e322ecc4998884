"""The planner: from a profile and a cluster it decides who does what, and predicts the step time.

    python -m launch plan stanza --model vgg16 --cluster ec2-p3-10g

Where an option is "auto", the fastest prediction decides. No separation (f = 0) is one of the
choices, so "auto" is never predicted to be slower than the best baseline. Stanza as published is
predicted by a recurrence (`stanza.planner.recurrence`). There is none for columns and colocated FC
workers, which are played in the simulator instead (`stanza.planner.simulated`). So is every scheme
where all ranks share the cores of one machine, for no recurrence knows what is busy at once.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from stanza.layout import Layout, layout_of, separated_layout
from stanza.options import ZERO_STAGES, FcParallel, FcPlacement, Options
from stanza.planner import baselines, recurrence
from stanza.planner.baselines import baseline_options
from stanza.planner.costs import CostsAt, costs_at as profiled_costs
from stanza.planner.memory import check_memory
from stanza.planner.predict import Prediction, unpredicted
from stanza.planner.simulated import separation
from stanza.planner.simulated.steps import steps_on
from systems.clusters.cluster import Cluster, Link
from systems.clusters.host import Host
from systems.clusters.mixed import seats_of
from systems.clusters.uniform import check_uniform
from systems.profiles import profile as profiles
from systems.profiles.profile import ModelProfile
from systems.schema import InputError

PROFILES = Path(__file__).parents[1] / "profiles"
MICRO_BATCHES = (1, 2, 4, 8, 16)
"""The numbers of micro-batches that "auto" chooses from."""
WORTH_IT = 1.005
"""More FC workers or micro-batches are only chosen if they are predicted to be this much faster."""
Mode = tuple[FcParallel, FcPlacement]
"""How FC workers share the FC part, and where they run."""
PUBLISHED_MODE: Mode = ("replicas", "dedicated")
"""The mode of the paper."""
MODES: tuple[Mode, ...] = (
    PUBLISHED_MODE,
    ("replicas", "colocated"),
    ("columns", "dedicated"),
    ("columns", "colocated"),
)
"""All modes."""
KEPT_MODES: tuple[Mode, ...] = (PUBLISHED_MODE, ("columns", "colocated"))
"""The modes to choose from where both options are "auto"."""
WIRE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""The bytes of one value of each dtype in which activations may travel."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the planner decided, and all that it predicted."""

    layout: Layout
    reason: str
    """Why this layout, in words."""
    chosen: Prediction | None = None
    """The prediction of this layout. It is None where nothing was predicted."""
    predictions: tuple[Prediction, ...] = ()
    """Those of the baselines, and then Stanza's best for every mode and number of FC workers."""
    profile: str = ""
    """The profile that was planned with: its model, batch, device and source."""
    bandwidth_bits_per_s: float | None = None
    """The link rate that was planned with. Where links differ, it is that of the
    slowest; where all ranks share one machine, None."""
    host: Host | None = None
    """That machine."""
    order: tuple[int, ...] = ()
    """Where nodes differ: by rank, the number of its node in the order of the cluster's file."""
    devices: tuple[str, ...] = ()
    """The same: by rank, the kind of its device."""
    shares: tuple[int, ...] = ()
    """The same: the samples of each rank with data in one step."""


def shipped_profiles() -> dict[str, Path]:
    """The files of the measured profiles that ship with the testbed, by name."""
    return {path.stem: path for path in sorted(PROFILES.glob("*.json"))}


def load_profile(name: str) -> ModelProfile:
    """Read the profile called `name`: a shipped one or a JSON file, or else an InputError."""
    return profiles.named(name, shipped_profiles(), "--profile")


def plan(
    options: Options, world_size: int, cluster: Cluster | None, profile: ModelProfile | None
) -> Plan:
    """Plan a run of `options` on `world_size` ranks, one on each node.

    Without a cluster or a profile, and for what nobody can predict (`unpredicted`, and a single
    process), nothing is predicted. Then only `micro_batches` may be "auto", which is 1.

    Raises:
        InputError: there are too few ranks or samples, "auto" lacks a profile, the profile is of
            another kind of device than the cluster's, or the nodes differ.
    """
    if cluster is not None:
        check_uniform(cluster)
    if cluster is not None and profile is not None and cluster.kinds != (profile.device,):
        raise InputError(
            f"profile of {profile.name}: was taken on {profile.device}, and cluster "
            f"{cluster.name!r} has {cluster.kinds[0]}; give a profile of that device"
        )
    predicted = options.scheme != "single" and unpredicted(options) is None
    if profile is None or cluster is None or not predicted:
        if options.scheme == "stanza":
            _refuse_auto(options)
        fc_workers = 1 if options.fc_workers == "auto" else options.fc_workers
        micro = 1 if options.micro_batches == "auto" else options.micro_batches
        return Plan(layout=layout_of(options, world_size, fc_workers, micro), reason="as given")
    predictions = predict_all(options, world_size, *enlarged(options, cluster, profile))
    if options.scheme != "stanza":
        chosen = next((p for p in predictions if p.scheme == options.scheme_name), None)
        resolved, reason = layout_of(options, world_size, 0, 1), "as given"
    else:
        chosen, reason = choose(options, world_size, predictions)
        _, resolved = as_run(options, chosen, world_size)
    if resolved.scheme not in ZERO_STAGES:  # these spread what they hold over the ranks
        shares = options.shares(len(resolved.data_ranks))
        check_memory(options, resolved, profile, shares, seats_of(cluster))
    return Plan(
        layout=resolved,
        reason=reason,
        chosen=chosen,
        predictions=predictions,
        profile=f"{profile.name}, batch {profile.batch_size}, {profile.device}: {profile.source}",
        bandwidth_bits_per_s=cluster.slowest_link.bandwidth_bits_per_s,
        host=cluster.host,
    )


def shared(options: Options, plan: Plan) -> Options:
    """Write the shares of the batch that a plan has found into the options."""
    return with_shares(options, plan.shares) if plan.shares else options


def with_shares(options: Options, shares: Sequence[int]) -> Options:
    """Write these samples for each rank with data into the options."""
    return dataclasses.replace(
        options,
        batch_shares=",".join(map(str, shares)),
        global_batch_size=sum(shares),
        local_batch_size=None,
    )


def enlarged(
    options: Options, cluster: Cluster, profile: ModelProfile
) -> tuple[Cluster, ModelProfile]:
    """Enlarge the cluster and the profile, as if the network were as large as the one that it
    stands for.

    All bytes and the link rates are `message_scale` times larger. So every time is what it was, and
    the buckets of the usual sizes are as many as the small network has of its smaller ones.
    """
    scale, link = options.message_scale, cluster.slowest_link
    if scale == 1 or link.bandwidth_bits_per_s is None:
        return cluster, profile
    layers = tuple(
        dataclasses.replace(
            layer,
            activation_bytes=round(layer.activation_bytes * scale),
            parameter_bytes=round(layer.parameter_bytes * scale),
        )
        for layer in profile.layers
    )
    faster = dataclasses.replace(link, bandwidth_bits_per_s=link.bandwidth_bits_per_s * scale)
    target = cluster.with_link(faster)
    if target.host is not None:
        target = target.on(target.host.enlarged(scale))
    return target, dataclasses.replace(profile, layers=layers)


def _refuse_auto(options: Options) -> None:
    """Refuse "auto" where nothing can be predicted."""
    remedies = {"fc_workers": "a number", "fc_parallel": "replicas", "fc_placement": "dedicated"}
    for name, remedy in remedies.items():
        if getattr(options, name) == "auto":
            raise InputError(
                f"--stanza.{name.replace('_', '-')} auto: needs a profile and a cluster with known "
                f"link rates; give {remedy}, or --cluster and --profile"
            )


def as_run(options: Options, prediction: Prediction, world_size: int) -> tuple[Options, Layout]:
    """Return the options and the layout with which a prediction is run."""
    changed = dataclasses.replace(
        options,
        fc_parallel=prediction.fc_parallel,
        fc_placement=prediction.fc_placement,
        **baseline_options(prediction.scheme),
    )
    return changed, layout_of(changed, world_size, prediction.fc_workers, prediction.micro_batches)


def costs_at(options: Options, profile: ModelProfile) -> CostsAt:
    """The profile's costs at any batch, where activations travel in the options' precision."""
    return profiled_costs(profile, WIRE_BYTES[options.cut_dtype])


def predict_all(
    options: Options, world_size: int, cluster: Cluster, profile: ModelProfile
) -> tuple[Prediction, ...]:
    """Predict the baselines, and then Stanza for every mode that is asked for and every number of
    FC workers that fits, each with its best number of micro-batches."""
    network, at = cluster.network, costs_at(options, profile)
    separated = []
    for mode in modes(options, at):
        for fc_workers in fc_workers_tried(options, world_size, mode):
            layouts = _layouts(options, world_size, mode, fc_workers)
            if layouts:
                separated.append(
                    _fastest([_separated(options, at, each, network) for each in layouts])
                )
    return (*baselines.predicted(options, at, world_size, network), *separated)


def modes(options: Options, at: CostsAt) -> list[Mode]:
    """The modes that the options ask for: how FC workers share the FC part, and where they run.

    "auto" leaves columns out where the FC part cannot be split. Where both options are "auto", it
    also leaves out two modes: colocated replicas, and columns on dedicated ranks. In emulation, at
    10 nodes and 10 Gb/s, neither has won.
    """
    both = options.fc_parallel == options.fc_placement == "auto"
    unsplittable = options.fc_parallel == "auto" and not at(1).fc_layers
    return [
        (parallel, placement)
        for parallel, placement in (KEPT_MODES if both else MODES)
        if options.fc_parallel in (parallel, "auto")
        and options.fc_placement in (placement, "auto")
        and not (parallel == "columns" and unsplittable)
    ]


def fc_workers_tried(options: Options, world_size: int, mode: Mode) -> Sequence[int]:
    """The numbers of FC workers to predict in a mode.

    Where a mode is tried because of "auto", colocated columns are spread over all nodes, and
    dedicated columns are at least two, since a single one is a replica.
    """
    parallel, placement = mode
    if placement == "dedicated":
        least = 2 if parallel == "columns" and options.fc_parallel == "auto" else 1
        most = world_size // 2
    else:
        chosen = parallel == "columns" and "auto" in (options.fc_parallel, options.fc_placement)
        least, most = world_size if chosen else 1, world_size
    every = range(least, most + 1)
    if mode == PUBLISHED_MODE or options.fc_workers == "auto":
        return every
    return [f for f in every if f == options.fc_workers]  # a simulation takes its time


def _layouts(options: Options, world_size: int, mode: Mode, fc_workers: int) -> list[Layout]:
    """The layouts to predict in a mode, one for each number of micro-batches that fits."""
    parallel, placement = mode
    conv_workers = world_size if placement == "colocated" else world_size - fc_workers
    smallest_batch = min(options.shares(conv_workers))
    numbers = MICRO_BATCHES if options.micro_batches == "auto" else (options.micro_batches,)
    return [
        separated_layout(
            conv_workers, fc_workers, number, fc_parallel=parallel, fc_placement=placement
        )
        for number in numbers
        if number <= smallest_batch
    ]


def _separated(options: Options, at: CostsAt, layout: Layout, network: Link | Host) -> Prediction:
    """Predict layer separation, by the recurrence if there is one, or else by the simulator."""
    shares = tuple(options.shares(len(layout.ranks("conv"))))
    published = (layout.fc_parallel, layout.fc_placement) == PUBLISHED_MODE
    if published and isinstance(network, Link):
        fc_workers = len(layout.ranks("fc"))
        return recurrence.separated(at, shares, fc_workers, layout.micro_batches, network)
    return _played(at, shares, layout, network)


@lru_cache(maxsize=256)  # jobs that differ in other options ask for the same
def _played(
    at: CostsAt, shares: tuple[int, ...], layout: Layout, network: Link | Host
) -> Prediction:
    """Play layer separation."""
    played = separation.separated(at, shares, layout, network, steps=steps_on(network))
    return baselines.as_prediction("stanza", layout, played, network)


def _fastest(candidates: Sequence[Prediction]) -> Prediction:
    """Return the fastest candidate, or an earlier (simpler) one where the gain is not worth it."""
    best = candidates[0]
    for candidate in candidates[1:]:
        if candidate.samples_per_s > best.samples_per_s * WORTH_IT:
            best = candidate
    return best


def choose(
    options: Options, world_size: int, predictions: Sequence[Prediction]
) -> tuple[Prediction, str]:
    """Choose among the predictions what the options leave open, and say why.

    Raises:
        InputError: more FC workers or micro-batches are asked for than fit.
    """
    separated = [
        p
        for p in predictions
        if p.scheme == "stanza" and options.fc_workers in ("auto", p.fc_workers)
    ]
    without = [p for p in predictions if p.scheme != "stanza"]
    if not separated:
        _check_fits(options, world_size)
    if options.fc_workers not in ("auto", 0):
        return _fastest(separated), "as given"
    if not without:  # too few samples: the layout of one says so
        layout_of(dataclasses.replace(options, scheme="ddp"), world_size, 0, 1)
    best_baseline = _fastest(without[::-1])  # DDP comes last: fewer, larger messages than servers
    best = _fastest([best_baseline, *separated]) if options.fc_workers == "auto" else best_baseline
    if best.scheme != "stanza":
        return best, (
            f"no separation: {best.scheme} is predicted fastest, its {best.busiest} is busy "
            f"{best.resources[best.busiest] * 1e3:.3g} ms of {best.step_s * 1e3:.3g} ms"
        )
    gain = best.samples_per_s / best_baseline.samples_per_s
    return best, (
        f"{best.fc_workers} FC worker(s){best.mode}, {best.micro_batches} micro-batch(es): "
        f"predicted {gain:.2f}x the throughput of the best baseline ({best_baseline.scheme}); its "
        f"{best.busiest} is busy {best.resources[best.busiest] * 1e3:.3g} ms of "
        f"{best.step_s * 1e3:.3g} ms"
    )


def _check_fits(options: Options, world_size: int) -> None:
    """Raise an InputError if the options ask for numbers of FC workers or micro-batches that do not
    fit. Where all is left to the planner, it has the baselines to choose from."""
    fc_workers, micro_batches = options.fc_workers, options.micro_batches
    if fc_workers == "auto" and (micro_batches == "auto" or world_size == 1):
        return
    fewest = 1 if fc_workers == "auto" else fc_workers
    layout_of(options, world_size, fewest, 1 if micro_batches == "auto" else micro_batches)
