"""`launch plan stanza` and the plan of every run: job + cluster + profile -> plan.

python -m launch plan stanza --model vgg16 --cluster ec2-p3-10g
python -m launch plan stanza --model digits-cnn --cluster local --nodes 4     # measures first
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from launch import job as jobs
from launch.backends import threads_per_rank
from launch.job import Job
from stanza import plan as stanza_plan
from stanza.models import ARCHITECTURES, build_model
from stanza.options import Options
from stanza.plan import Plan
from systems import cluster, profile, record, schema
from systems.cluster import Cluster, Link
from systems.emulated import Emulation
from systems.loopback import measure_loopback
from systems.profile import ModelProfile
from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class PlanArguments:
    """Predict every scheme's step time and choose."""

    model: str = "digits-cnn"
    """alexnet, vgg16, resnet50, inception-v3: measured profiles ship. Others are measured here."""
    cluster: str = "local"
    """A preset or a TOML file."""
    nodes: int | None = None
    """Plan for this many nodes instead of the cluster's own number."""
    profile: str | None = None
    """A shipped profile's name or a JSON file. None: the model's, or one measured now."""
    local_batch_size: int | None = None
    """Samples per worker. None: those that the profile was taken with."""
    fc_parallel: Literal["replicas", "columns", "auto"] = "replicas"
    """How several FC workers share the FC layers."""
    fc_placement: Literal["dedicated", "colocated", "auto"] = "dedicated"
    """Whether FC workers are CONV workers as well."""
    cut_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of activations and their gradients on the wire."""
    out: str | None = None
    """Also write the plan as JSON."""


def main(arguments: Sequence[str]) -> None:
    """Print the plan."""
    flags = jobs.parse_flags(PlanArguments, arguments, "launch plan stanza", PlanArguments())
    if flags.out is not None:
        record.check_new_file(Path(flags.out))
    chosen = cluster.load(flags.cluster)
    if flags.nodes is not None:
        jobs.refuse_below_one({"nodes": (flags.nodes,)})
        chosen = chosen.with_size(flags.nodes)
    options = Options(
        model=flags.model,
        local_batch_size=_profiled_batch(flags.profile)
        if flags.local_batch_size is None
        else flags.local_batch_size,
        fc_parallel=flags.fc_parallel,
        fc_placement=flags.fc_placement,
        cut_dtype=flags.cut_dtype,
    )
    job = Job(cluster=flags.cluster, world_size=chosen.size, profile=flags.profile, stanza=options)
    plan = plan_job(job, may_measure=True)
    if flags.out is not None:
        record.write_json(Path(flags.out), schema.dump(plan))
    print(describe(plan, flags.model, chosen))


def _profiled_batch(name: str | None) -> int | None:
    """The batch size of a profile that the user names; a model's own profile has the model's."""
    return None if name is None else stanza_plan.load_profile(name).batch_size


def plan_job(job: Job, *, may_measure: bool) -> Plan:
    """The plan of a job. With `may_measure`, "auto" on a cluster or model without figures measures
    them first; nothing is measured where the answer would not be used.

    Raises:
        InputError: see stanza.plan.plan.
    """
    options = job.stanza
    auto = "auto" in (options.fc_workers, options.fc_parallel, options.fc_placement)
    wanted = options.scheme == "stanza" and auto
    basis = planning_basis(job, measure=wanted and may_measure)
    if basis is None:
        return stanza_plan.plan(job.stanza, job.world_size, None, None)
    return stanza_plan.plan(job.stanza, job.world_size, *basis)


def planning_basis(job: Job, *, measure: bool) -> tuple[Cluster, ModelProfile] | None:
    """The cluster and the profile that a job is planned with; None if one has no figures yet and
    they are not to be measured."""
    target = cluster.load(job.cluster)
    if len(target.nodes) == 1:
        target = target.with_size(job.world_size)
    if target.size != job.world_size:
        raise InputError(
            f"--world-size {job.world_size}: cluster {target.name} mixes {target.size} nodes; give "
            f"{target.size}, or another --cluster"
        )
    model = job.profile or job.stanza.model
    known = job.profile is not None or model in stanza_plan.shipped_profiles()
    has_link = target.slowest_link.bandwidth_bits_per_s is not None
    if not has_link and target.name != "local":
        raise InputError(
            f"--cluster {job.cluster}: bandwidth_bits_per_s of a link is not known, and only "
            "this machine's loopback can be measured; state it in the file"
        )
    measured = stanza_plan.load_profile(model) if known else None
    if measured is not None and measured.name != job.stanza.model:
        raise InputError(
            f"--profile {job.profile}: is of {measured.name}, the model is {job.stanza.model}; "
            "give a profile of that model"
        )
    if not (known and has_link) and not measure:
        return None
    measured = measured or measure_shared(job.stanza, job.world_size)
    return target if has_link else target.with_link(measure_link(job.world_size)), measured


def measure_profile(options: Options, batch_size: int | None = None) -> ModelProfile:
    """Profile the options' model on this machine's CPU or GPU, one device, nothing beside it."""
    architecture = ARCHITECTURES[options.model]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randn(batch_size or architecture.batch_size, *architecture.image_shape)
    print(f"measuring {options.model}, batch {len(images)}, on {device}", file=sys.stderr)
    model = build_model(options.model).to(device)
    kind = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return profile.profile_model(
        model, images.to(device), name=options.model, device_kind=kind, repetitions=9
    )


def measure_shared(options: Options, world_size: int) -> ModelProfile:
    """The profile that one of `world_size` ranks of this machine sees while all of them compute."""
    cores = os.cpu_count() or 1
    threads = threads_per_rank(world_size)
    if torch.cuda.is_available():
        return measure_profile(options)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    large = ARCHITECTURES[options.model].batch_size
    alone = profile.with_fixed_parts(
        measure_profile(options, large), measure_profile(options, max(1, large // 8))
    )
    torch.set_num_threads(before)
    factor = max(1.0, world_size * threads / cores)
    return alone.slowed(factor, f"{world_size} ranks share {cores} cores")


def measure_link(world_size: int) -> Link:
    """What each of `world_size` ranks of this machine gets from the loopback link."""
    print(f"measuring the loopback link with {world_size} processes over gloo", file=sys.stderr)
    return measure_loopback(world_size)


def link_rates_of(name: str, world_size: int, emulation: Emulation) -> tuple[float, ...]:
    """The rates of the links that stand for those of a cluster.

    Raises:
        InputError: too small a cluster, or links of unknown rate.
    """
    target = cluster.load(name)
    if len(target.nodes) == 1:
        target = target.with_size(world_size)
    if target.size != world_size:
        raise InputError(
            f"--world-size {world_size}: cluster {name} has {target.size} nodes; emulate them all"
        )
    rates = [link.bandwidth_bits_per_s for link in target.links]
    if None in rates:
        raise InputError(
            f"--cluster {name}: the rate of its links is not known; give a cluster that states it"
        )
    return tuple(emulation.rate_bits_per_s(rate) for rate in rates if rate is not None)


def describe(plan: Plan, model: str, target: Cluster) -> str:
    """The plan as text: figures used, a table of predictions, the choice and why."""
    assert plan.chosen is not None  # `launch plan` always predicts
    assert plan.bandwidth_bits_per_s is not None
    lines = [
        f"plan stanza | tier simulated (planner, no processes) | {model} on "
        f"{target.size} nodes of {target.name} at {plan.bandwidth_bits_per_s / 1e9:.3g} Gb/s",
        f"  profile: {plan.profile}; each worker takes {_local_batch(plan)} samples a step",
        f"  cluster: {target.source}",
        f"  {'scheme':25}{'f':>3}{'m':>4}{'step ms':>10}{'samples/s':>11}{'x PS 1 blocking':>17}"
        "   busy ms per resource",
    ]
    first = plan.predictions[0]
    for p in plan.predictions:
        resources = ", ".join(f"{name} {s * 1e3:.1f}" for name, s in p.resources.items())
        mark = "*" if p == plan.chosen else " "
        lines.append(
            f"{mark} {p.scheme + p.mode:25}{p.fc_workers:>3}{p.micro_batches:>4}"
            f"{p.step_s * 1e3:>10.1f}{p.samples_per_s:>11,.0f}"
            f"{p.samples_per_s / first.samples_per_s:>16.2f}x   {resources}"
        )
    lines.append(f"  chosen: {plan.reason}")
    return "\n".join(lines)


def _local_batch(plan: Plan) -> int:
    """Samples of one worker and step, of those that DDP would have."""
    everyone = next(p for p in plan.predictions if p.scheme == "ddp")
    return everyone.samples // len(plan.layout.roles)


def resolved(job: Job, plan: Plan) -> Job:
    """The job with the planner's answers written in, so that it runs again without planning."""
    changes: dict[str, Any] = {
        "micro_batches": plan.layout.micro_batches,
        "fc_parallel": plan.layout.fc_parallel,
        "fc_placement": plan.layout.fc_placement,
    }
    if plan.layout.scheme == "stanza":
        changes["fc_workers"] = len(plan.layout.ranks("fc"))
    elif job.stanza.scheme == "stanza":  # the planner has chosen not to separate
        assert plan.chosen is not None
        changes |= stanza_plan.baseline_options(plan.chosen.scheme)
    return dataclasses.replace(job, stanza=dataclasses.replace(job.stanza, **changes))
