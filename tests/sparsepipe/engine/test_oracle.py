"""Flushing schedules against those of torch.distributed.pipelining, on the dense twin.

The twin's volumes have one size in every micro-batch, which is what that library asks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from sparsepipe.experiments.small_pipelines import CLASSES, difference, loss_sum, momentum
from sparsepipe.models import DENSE, MinkVGG16
from sparsepipe.runtime.network import Network
from sparsepipe.runtime.run import run_pipeline
from sparsepipe.runtime.values import Value
from sparsepipe.schedule.lists import ActionKind, ScheduleKind, build_schedule, roles
from systems.environment import environment
from systems.network.distributed import World, start, stop
from tests.ranks import run_ranks

RANKS, SAMPLES, MICRO_BATCHES, STEPS, SIDE = 3, 8, 4, 5, 32
CHAIN = ((0,), (1,), (2,))
ORACLES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


class Volumes:
    """Mini-batches of dense volumes, all of one size."""

    def voxels(self, mini_batch: int) -> list[int]:
        return [1] * SAMPLES

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        generator = torch.Generator().manual_seed(mini_batch)
        volume = torch.randn(SAMPLES, 1, SIDE, SIDE, SIDE, generator=generator)
        return (volume[samples.start : samples.stop],)

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        return torch.arange(samples.start, samples.stop).add(mini_batch) % CLASSES

    def count(self, mini_batch: int) -> int:
        return SAMPLES


WHOLE = range(SAMPLES)
Passes = list[tuple[ActionKind, int]]
"""Forward and backward passes with their micro-batch."""


def dense_stages() -> list[nn.Module]:
    torch.manual_seed(0)
    twin = MinkVGG16(1, CLASSES, width=1 / 32, kit=DENSE)
    for layer in twin.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, nn.BatchNorm3d):
            layer.eval()
    network = Network(twin)
    return list(network.stages([len(network.layers) // 3, 2 * len(network.layers) // 3]))


class OneValue(nn.Module):
    """A stage that takes and returns a tensor instead of tuples of one."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, value: Tensor) -> Tensor:
        (output,) = self.stage(value)
        assert isinstance(output, Tensor)
        return output


class Recording(PipelineStage):
    """Keeps the order of its passes."""

    passes: Passes

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        self.passes.append((ActionKind.FORWARD, fwd_chunk_id))
        return super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        self.passes.append((ActionKind.BACKWARD, bwd_chunk_id))
        return super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)


def by_the_oracle(kind: ScheduleKind, world: World) -> tuple[dict[str, Tensor], Passes]:
    """This rank's stage, trained by torch.distributed.pipelining, and its passes."""
    module = dense_stages()[world.rank]
    stage = Recording(OneValue(module), world.rank, RANKS, torch.device("cpu"))
    stage.passes = []
    schedule = ORACLES[kind](stage, MICRO_BATCHES, loss_fn=nn.functional.cross_entropy)
    optimizer = momentum(module.parameters())
    for step in range(STEPS):
        inputs = Volumes().inputs(step, WHOLE) if world.rank == 0 else ()
        last = world.rank == RANKS - 1
        schedule.step(*inputs, target=Volumes().targets(step, WHOLE) if last else None)
        optimizer.step()
        optimizer.zero_grad()
    return module.state_dict(), stage.passes


def by_ours(kind: ScheduleKind, world: World) -> tuple[dict[str, Tensor], Passes]:
    """Likewise, by the runtime."""
    stages = dense_stages()
    schedule = build_schedule(kind, CHAIN, mini_batches=STEPS, micro_batches=MICRO_BATCHES)
    steps = run_pipeline(
        schedule,
        stages,
        ((1.0,),) * RANKS,
        world.with_roles(roles(schedule)),
        batches=Volumes(),
        loss_sum=loss_sum,
        optimizer=momentum,
        norm="frozen",
    )
    assert len(list(steps)) == STEPS
    passes: Passes = [
        (action.kind, action.micro_batch % MICRO_BATCHES)
        for action in schedule.ranks[world.rank]
        if action.kind in (ActionKind.FORWARD, ActionKind.BACKWARD)
    ]
    return stages[world.rank].state_dict(), passes


@dataclass(frozen=True)
class Compared:
    """One schedule on one rank."""

    kind: ScheduleKind
    difference: float
    """Between its stage here and there."""
    moved: float
    """Between its stage and the untrained one."""
    ours: Passes
    theirs: Passes


def train_all(kinds: Sequence[ScheduleKind]) -> list[Compared]:
    world = start(environment(), ["stage"] * RANKS, timeout_s=60, device="cpu")
    found = []
    for kind in kinds:
        theirs, their_passes = by_the_oracle(kind, world)
        ours, our_passes = by_ours(kind, world)
        untrained = dense_stages()[world.rank].state_dict()
        far, moved = difference(ours, theirs), difference(ours, untrained)
        found.append(Compared(kind, far, moved, our_passes, their_passes))
        dist.barrier()
    stop(world)
    return found


def test_the_dense_twin_is_trained_as_by_the_oracle() -> None:
    """The same parameters, by the same passes in the same order."""
    for rank in run_ranks(RANKS, train_all, list(ORACLES)):
        assert [compared.kind for compared in rank] == list(ORACLES)
        for compared in rank:
            assert compared.difference <= 1e-5
            assert compared.moved > 1e-3
            assert compared.ours == compared.theirs
