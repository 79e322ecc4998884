"""Which rank holds which layers of a user's network, and the schedule of its mini-batches."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from sparsepipe.planner.plan import load_plan
from sparsepipe.planner.stages import PlannedStage, ScheduleChoice, ScheduleName
from sparsepipe.runtime.network import Network
from sparsepipe.runtime.values import Value
from sparsepipe.train.plan_file import check_planned_stages
from sparsepipe.train.stages import MICRO_BATCHES, cuts_fit, equal_cuts, stages_between, timed_cuts
from systems.network.distributed import World
from systems.schema import InputError

DEFAULT: ScheduleName = "1f1b"
"""The schedule where neither the user nor a plan file names one."""


@dataclass(frozen=True)
class Placement:
    """Who holds what, and how mini-batches follow one another."""

    stages: tuple[PlannedStage, ...]
    """The stages, in the order of the layers."""
    choice: ScheduleChoice
    """The schedule."""


def placement(
    network: nn.Module,
    plan: str | Path | Sequence[int],
    schedule: ScheduleName | None,
    micro_batches: int | None,
    world: World,
    inputs: Value,
) -> Placement:
    """Place a network's layers: by layer times ("auto"), by a plan file, or at cuts.

    All ranks must call this together.

    Args:
        inputs: a mini-batch, with which "auto" times the layers on rank 0.

    Raises:
        InputError: a plan or cuts that do not fit the network, the ranks or the schedule.
    """
    layers = len(Network(network).layers)
    if isinstance(plan, (str, Path)) and plan != "auto":
        return _planned(Path(plan), schedule, micro_batches, layers, world.world_size)
    choice = _choice(schedule or DEFAULT, micro_batches)
    if not isinstance(plan, str | Path):
        cuts = tuple(plan)
        if not cuts_fit(cuts, layers, world.world_size):
            raise InputError(
                f"plan {list(cuts)}: give {world.world_size - 1} cuts that ascend between 1 and "
                f"{layers - 1}, for {world.world_size} ranks and {layers} layers"
            )
    elif world.world_size > layers:
        raise InputError(f"{world.world_size} ranks: the network has only {layers} layers")
    else:
        cuts = _balanced(network, inputs, layers, world)
    return Placement(stages_between(cuts, layers), choice)


def _choice(schedule: ScheduleName, micro_batches: int | None) -> ScheduleChoice:
    """The schedule with its number of micro-batches."""
    flushes = ScheduleChoice(name=schedule).flushes
    return ScheduleChoice(
        name=schedule, micro_batches=micro_batches or (MICRO_BATCHES if flushes else 1)
    )


def _balanced(network: nn.Module, inputs: Value, layers: int, world: World) -> tuple[int, ...]:
    """The cuts with which the slowest stage is as fast as possible, as rank 0 has measured."""
    told: list[tuple[int, ...] | None] = [None]
    if world.rank == 0 and world.world_size > 1:
        with torch.random.fork_rng():  # dropout draws numbers
            copied = Network(copy.deepcopy(network).train())
            told = [timed_cuts(copied, inputs.to(world.device), world.world_size)]
    with world.meeting("the measurement of the layers on rank 0"):
        dist.broadcast_object_list(told, src=0)
    return told[0] if told[0] is not None else equal_cuts(layers, world.world_size)


def _planned(
    path: Path, schedule: ScheduleName | None, micro_batches: int | None, layers: int, ranks: int
) -> Placement:
    """The placement in a plan file, which must not say something else than the user."""
    plan = load_plan(path)
    check_planned_stages(plan.stages, f"plan {path}")
    if plan.stages[-1].end != layers:
        raise InputError(
            f"plan {path}: is of {plan.stages[-1].end} layers, and the network has {layers}; plan "
            "from a profile of this network"
        )
    needed = 1 + max(max(stage.ranks) for stage in plan.stages)
    if needed > ranks:
        raise InputError(f"plan {path}: is for {needed} ranks, and there are {ranks}")
    asked = {"schedule": schedule, "micro_batches": micro_batches}
    theirs = {"schedule": plan.schedule.name, "micro_batches": plan.schedule.micro_batches}
    for name, ours in asked.items():
        if ours is not None and ours != theirs[name]:
            raise InputError(
                f"{name}={ours!r}: the plan {path} has {theirs[name]!r}; leave {name} out, or plan "
                "again"
            )
    return Placement(plan.stages, plan.schedule)
