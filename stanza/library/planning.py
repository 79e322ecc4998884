"""Decides who does what, with the planner where an argument is "auto".

What the planner needs is measured before the first step: every layer of the model on rank 0, while
the other ranks wait, and, unless a cluster is given that states them, the links between the ranks;
or, where all ranks share the cores of one machine, what that machine takes for all that they do.
"""

import dataclasses

import torch
import torch.distributed as dist
from torch import nn

from stanza.layout import Layout
from stanza.options import Options
from stanza.planner.plan import as_run, plan
from systems.clusters import cluster as clusters
from systems.clusters.cluster import Cluster, Link
from systems.clusters.sized import sized_cluster
from systems.environment import environment
from systems.network.distributed import World
from systems.network.host_here import shared_host
from systems.network.links import SMALL_BYTES, neighbours_s
from systems.processes.waiting import waiting
from systems.profiles.measured_profile import profile_model
from systems.profiles.profile import ModelProfile, with_fixed_parts
from systems.schema import InputError

REPETITIONS = 5
"""How often each layer and each message is timed; the median counts."""
LARGE_BYTES = 4 * 1024**2
"""The size of the messages that give a link's rate."""


def lay_out(
    options: Options,
    world: World,
    model: nn.Module,
    images_shape: tuple[int, ...],
    cluster: str | None,
    *,
    servers_fit: bool,
) -> tuple[Options, Layout, str]:
    """The options without "auto", the layout, and why it was chosen. All ranks call this together.

    Args:
        images_shape: the shape of a local batch of images, [b, C, H, W].
        cluster: the preset or file of the cluster to plan for; None measures the links.
        servers_fit: whether pipelined parameter servers can train the model, if they are fastest.

    Raises:
        InputError: there are too few ranks or samples, or nothing can be predicted for the model.
    """
    auto = "auto" in (options.fc_workers, options.fc_parallel, options.fc_placement)
    if options.scheme != "stanza" or not auto or world.world_size == 1:
        given = options
        if world.world_size == 1 and options.scheme == "stanza" and options.fc_workers == "auto":
            given = dataclasses.replace(options, scheme="single")
        as_given = plan(given, world.world_size, None, None)
        return given, as_given.layout, as_given.reason
    target = _cluster(cluster, world)
    from_rank_0: list[tuple[Options, Layout, str] | str] = [""]
    if world.rank == 0:
        try:
            from_rank_0 = [_planned(options, world, model, images_shape, target, servers_fit)]
        except InputError as error:
            from_rank_0 = [f"fc_workers=auto: {error}; or give a number"]
    with waiting("rank 0, which measures the layers and plans", [0]):
        dist.broadcast_object_list(from_rank_0, src=0)
    (answer,) = from_rank_0
    if isinstance(answer, str):
        raise InputError(answer)
    return answer


def _planned(
    options: Options,
    world: World,
    model: nn.Module,
    shape: tuple[int, ...],
    target: Cluster,
    servers_fit: bool,
) -> tuple[Options, Layout, str]:
    """Measure the model, and plan."""
    profile = _profile(model, shape, world.device)
    answer = plan(options, world.world_size, target.with_kind(profile.device), profile)
    best, reason = answer.chosen, answer.reason
    assert best is not None  # there are a cluster and a profile
    if best.scheme.startswith("ps") and not servers_fit:
        others = [p for p in answer.predictions if not p.scheme.startswith("ps")]
        best = max(others, key=lambda prediction: prediction.samples_per_s)
        reason = f"{best.scheme} is predicted fastest without servers, which cannot train this"
    chosen, layout = as_run(options, best, world.world_size)
    return chosen, layout, reason


def _profile(model: nn.Module, shape: tuple[int, ...], device: torch.device) -> ModelProfile:
    """A profile of the model as one of the ranks of this machine has it."""
    first = next(p for p in model.parameters() if p.is_floating_point())
    images = torch.rand(shape, dtype=first.dtype, device=device)
    kind = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"

    def measured(samples: int) -> ModelProfile:
        return profile_model(
            model,
            images[:samples],
            name=type(model).__name__,
            device_kind=kind,
            repetitions=REPETITIONS,
        )

    devices = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        profile = measured(len(images))
        if len(images) > 1:
            profile = with_fixed_parts(profile, measured(max(1, len(images) // 8)))
    return profile


def _cluster(name: str | None, world: World) -> Cluster:
    """The cluster to plan for: with a node for every rank, and links of known rates.

    Raises:
        InputError: nodes that are not alike, another number of them, or links of unknown rate.
    """
    if name is None:
        here = clusters.load("local").with_size(world.world_size)
        if world.device.type == "cpu" and environment().local_world_size == world.world_size:
            return here.on(shared_host(world))
        return here.with_link(_measured_link(world))
    target = sized_cluster(name, world.world_size)
    if not target.network_is_known:
        raise InputError(
            f"cluster={name}: the rate of its links is not known; give a cluster that states it"
        )
    return target


def _measured_link(world: World) -> Link:
    """The link of every rank while all of them send to their neighbours, over gloo."""
    if world.device.type == "cuda":
        raise InputError(
            "fc_workers=auto: links between GPUs are not measured; give cluster= a file that "
            "states their rates, or a number of FC workers"
        )
    large_s, small_s = (
        neighbours_s(size, REPETITIONS).amax(1).median().item()
        for size in (LARGE_BYTES, SMALL_BYTES)
    )
    rate_bits_per_s = LARGE_BYTES * 8 / max(large_s - small_s, 1e-9)
    return Link(bandwidth_bits_per_s=rate_bits_per_s, latency_s=small_s)
