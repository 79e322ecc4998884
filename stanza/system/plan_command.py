"""`testbed plan stanza`: predicts the step time of every scheme on a cluster, and chooses one.

python -m launch plan stanza --model vgg16 --cluster ec2-p3-10g
python -m launch plan stanza --model digits-cnn --cluster local --nodes 4     # measures first
python -m launch plan stanza --model net.py:Net --cluster my.toml --profile net.json
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stanza.options import EQUAL, Options
from stanza.planner import plan as stanza_plan
from stanza.planner.plan import Plan
from stanza.system import SYSTEM
from stanza.system.mixed import describe_devices, rates_in_words
from stanza.system.planning import plan_stanza_job
from systems import schema
from systems.clusters import cluster
from systems.clusters.cluster import Cluster
from systems.clusters.mixed import mixed_cluster
from systems.clusters.sized import sized_cluster
from systems.flags import named_as_given, parse_flags, refuse_below_one
from systems.job import Job
from systems.runs import record

NAMED_HERE = {
    f"stanza.{name}": name
    for name in (
        "model",
        "image-shape",
        "classes",
        "data",
        "local-batch-size",
        "global-batch-size",
        "fc-parallel",
        "fc-placement",
        "batch-shares",
        "cut-dtype",
    )
}
"""The options of a job that `testbed plan stanza` and `testbed profile stanza` have too: the name
in a job, and the name here."""


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """The model of a command, and what it takes."""

    model: str = "digits-cnn"
    """The network: alexnet, vgg16, resnet50, resnet152, inception-v3, digits-cnn, alexnet-28,
    vgg-28 or resnet-28 (small relatives of the big ones, for images of 28 x 28); or your own, as
    package.module:attribute or path/to/file.py:attribute."""
    image_shape: tuple[int, ...] | None = None
    """Channels, height and width of one image. None takes what the model says, or else the data."""
    classes: int | None = None
    """The number of classes. None takes what the model says, or else the data."""
    data: str | None = None
    """The data of a job, where the shape and the number of classes are theirs."""

    def options(self, **others: Any) -> Options:
        """The options of a job with this model."""
        return Options(
            model=self.model,
            image_shape=self.image_shape,
            classes=self.classes,
            data=self.data or "",
            **others,
        )


@dataclass(frozen=True, kw_only=True)
class PlanArguments(ModelArguments):
    """Predict the step time of every scheme, and choose a scheme."""

    cluster: str = "local"
    """The cluster to plan for: a preset or a TOML file."""
    nodes: int | None = None
    """The number of nodes to plan for. None takes the number of the cluster."""
    profile: str | None = None
    """The profile to plan with: the name of a shipped one or a JSON file; where devices differ, one
    for each kind, as in V100=a.json,T4=b.json. None takes the shipped profile of the model (of
    alexnet, vgg16, resnet50 and inception-v3), or measures one now."""
    local_batch_size: int | None = None
    """The samples of a worker in a step, whatever the scheme. None takes the batch size of the
    profile, unless global_batch_size is given."""
    global_batch_size: int | None = None
    """The samples of a step over all workers, instead: those of a job with the same option."""
    fc_parallel: Literal["replicas", "columns", "auto"] = "replicas"
    """How several FC workers share the FC layers."""
    fc_placement: Literal["dedicated", "colocated", "auto"] = "dedicated"
    """Whether FC workers are CONV workers as well."""
    batch_shares: str = "equal"
    """How the samples of a step are shared: equal; in proportion to numbers, by rank, such as
    3,1,1; or auto, so that all ranks compute equally long."""
    cut_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The precision of activations and of their gradients on the links."""
    out: str | None = None
    """A new JSON file to which the plan is written as well."""


def main(arguments: Sequence[str]) -> None:
    """Plan, print the plan, write it if a file is named."""
    flags = parse_flags(PlanArguments, arguments, "testbed plan stanza", PlanArguments())
    if flags.out is not None:
        record.check_new_file(Path(flags.out))
    if flags.nodes is not None:
        refuse_below_one({"nodes": (flags.nodes,)})
    with named_as_given({"world-size": "nodes", **NAMED_HERE}):
        job = _job(flags)
        plan = plan_stanza_job(job, may_measure=True)
        target = (mixed_cluster if plan.devices else sized_cluster)(job.cluster, job.world_size)
    if flags.out is not None:
        record.write_json(Path(flags.out), schema.dump(plan))
    print(describe_plan(plan, flags.model, target, _batch_in_words(job.options)))


def _job(flags: PlanArguments) -> Job:
    """The job to plan: the one with the options of these flags."""
    size = cluster.load(flags.cluster).size if flags.nodes is None else flags.nodes
    neither = flags.local_batch_size is None and flags.global_batch_size is None
    options = flags.options(
        local_batch_size=_profiled_batch(flags.profile) if neither else flags.local_batch_size,
        global_batch_size=flags.global_batch_size,
        fc_parallel=flags.fc_parallel,
        fc_placement=flags.fc_placement,
        batch_shares=flags.batch_shares,
        cut_dtype=flags.cut_dtype,
    )
    return SYSTEM.job(options, cluster=flags.cluster, world_size=size, profile=flags.profile)


def _profiled_batch(name: str | None) -> int | None:
    """Return the batch size of the profile that the user names, or of the first of several. None
    without one: the profile that ships was taken at the batch size of the model."""
    if name is None:
        return None
    first = name.partition(",")[0].partition("=")[2] if "=" in name else name
    return stanza_plan.load_profile(first).batch_size


def _batch_in_words(options: Options) -> str:
    """Say what the schemes are compared on: a batch for each worker, or one for all of them."""
    if options.global_batch_size is not None:
        return f"all workers of a scheme share {options.global_batch_size} samples a step"
    if options.batch_shares != EQUAL:
        return f"workers take {options.samples_per_step(1)} samples a step each on average"
    return f"each worker takes {options.samples_per_step(1)} samples a step"


def _network_in_words(target: Cluster, plan: Plan) -> str:
    """The network that was planned with: the rate of the links, or the cores of one machine."""
    host = plan.host
    if host is None:
        return f"at {rates_in_words(target, plan)}"
    ring_s = host.ring.seconds(1e6)
    message_s = host.message.seconds(1e6)
    return (
        f"that share {host.cores:.2f} cores; 1 MB takes {message_s * 1e3:.2f} ms of a core in a "
        f"message, {ring_s * 1e3:.2f} ms in a ring\n  machine: {host.source}"
    )


def describe_plan(plan: Plan, model: str, target: Cluster, batch: str) -> str:
    """The plan as text: the figures that it was made from, a table of predictions, the choice and
    the reason for it. `batch` says in words what the schemes are compared on."""
    assert plan.chosen is not None  # `testbed plan` always predicts
    first = plan.predictions[0]  # the weakest parameter server, if there are several ranks
    ddp = next((p for p in plan.predictions if p.scheme == "ddp"), None)
    lines = [
        f"plan stanza | tier simulated (planner, no processes) | {model} on "
        f"{target.size} nodes of {target.name} {_network_in_words(target, plan)}",
        f"  profile: {plan.profile}; {batch}",
        f"  cluster: {target.source}",
        *describe_devices(target, plan),
        f"  {'scheme':25}{'f':>3}{'m':>4}{'step ms':>10}{'samples/s':>11}"
        f"{'x ' + first.scheme:>17}{'x DDP':>8}   busy ms per resource",
    ]
    for p in plan.predictions:
        resources = ", ".join(f"{name} {s * 1e3:.1f}" for name, s in p.resources.items())
        mark = "*" if p == plan.chosen else " "
        over_ddp = f"{p.samples_per_s / ddp.samples_per_s:.2f}x" if ddp is not None else "n/a"
        lines.append(
            f"{mark} {p.scheme + p.mode:25}{p.fc_workers:>3}{p.micro_batches:>4}"
            f"{p.step_s * 1e3:>10.1f}{p.samples_per_s:>11,.0f}"
            f"{p.samples_per_s / first.samples_per_s:>16.2f}x"
            f"{over_ddp:>8}   {resources}"
        )
    lines.append(f"  chosen: {plan.reason}")
    return "\n".join(lines)
