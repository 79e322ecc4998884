"""The planner: from a profile and a cluster it decides who does what, and predicts the step time.

    python -m launch plan stanza --model vgg16 --cluster ec2-p3-10g

Where an option is "auto", the fastest prediction decides. No separation (f = 0) is one of the
choices, so "auto" is never predicted to be slower than the best baseline. The choices and their
predictions come from `stanza.planner.candidates`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stanza.layout import Layout, layout_of
from stanza.options import ZERO_STAGES, Options
from stanza.planner.baselines import baseline_options
from stanza.planner.candidates import fastest, predict_all
from stanza.planner.memory import check_memory
from stanza.planner.predict import Prediction, unpredicted
from systems.clusters.cluster import Cluster
from systems.clusters.host import Host
from systems.clusters.mixed import seats_of
from systems.clusters.uniform import check_uniform
from systems.profiles import profile as profiles
from systems.profiles.profile import ModelProfile
from systems.schema import InputError

PROFILES = Path(__file__).parents[1] / "profiles"


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
    """Read the profile called `name`: one that ships, or a JSON file.

    Raises:
        InputError: there is neither.
    """
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
        return fastest(separated), "as given"
    if not without:  # too few samples: the layout of one says so
        layout_of(dataclasses.replace(options, scheme="ddp"), world_size, 0, 1)
    best_baseline = fastest(without[::-1])  # DDP comes last: fewer, larger messages than servers
    best = fastest([best_baseline, *separated]) if options.fc_workers == "auto" else best_baseline
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
