"""Pipelines in real processes make the updates of one process."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from torch import Tensor

from sparsepipe import schedule as schedules
from sparsepipe.delayed import Delayed, Synchronous
from sparsepipe.network import Network
from sparsepipe.pipeline import collect, roles, run
from sparsepipe.schedule import Kind, Schedule, Stages
from sparsepipe.values import Value
from systems.distributed import start, stop
from systems.environment import environment
from systems.record import Step
from tests.ranks import run_ranks
from tests.sparsepipe.pipelines import (
    STEPS,
    Clouds,
    Model,
    build,
    difference,
    frozen,
    loss_sum,
    momentum,
)

RANKS = 4
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """One run over all ranks."""

    kind: Kind
    stages: Stages
    model: Model = "vgg"
    micro_batches: int = 1
    in_flight: tuple[int, ...] | None = None
    speeds: tuple[tuple[float, ...], ...] = ()
    late_updates: bool = False

    @property
    def schedule(self) -> Schedule:
        return schedules.build(
            self.kind,
            self.stages,
            mini_batches=STEPS,
            micro_batches=self.micro_batches,
            in_flight=self.in_flight,
            late_updates=self.late_updates,
        )

    def cuts(self, layers: int) -> list[int]:
        """Layers in equal numbers."""
        count = len(self.stages)
        return [layers * k // count for k in range(1, count)]


CHAIN: Stages = ((0,), (1,), (2,), (3,))
CASES = {
    "gpipe, 4 stages": Case("gpipe", CHAIN, micro_batches=3),
    "1f1b, 2 stages of 1 and 3": Case(
        "1f1b", ((0,), (1, 2, 3)), micro_batches=2, speeds=((1,), (3, 1, 2))
    ),
    "1f1b, U-Net, 3 stages": Case(
        "1f1b", ((0,), (1, 2), (3,)), "unet", micro_batches=2, speeds=((1,), (1, 2), (1,))
    ),
    "1f1b, ranks with 2 stages": Case("1f1b", ((0, 2), (1,), (0,), (1, 3)), micro_batches=3),
    "data parallel": Case("gpipe", ((0, 1, 2, 3),), speeds=((1, 2, 3, 4),)),
    "async, 4 stages": Case("1f1b-async", CHAIN),
    "async, 2 stages of 2, more in flight": Case(
        "1f1b-async", ((0, 1), (2, 3)), in_flight=(4, 1), speeds=((1, 2), (3, 1))
    ),
    "async, data parallel, late": Case(
        "1f1b-async", ((0, 1, 2, 3),), speeds=((1, 2, 1, 2),), late_updates=True
    ),
    "async, 3 stages, late, one rank idle": Case(
        "1f1b-async", ((0, 1), (3,)), speeds=((2, 1), (1,)), late_updates=True
    ),
    "async, U-Net, 3 stages": Case(
        "1f1b-async", ((0, 1), (2,), (3,)), "unet", speeds=((1, 3), (1,), (1,))
    ),
    "async, ranks with 2 stages": Case("1f1b-async", ((0,), (1, 2), (0,), (3,))),
}


def train_all(cases: Sequence[Case]) -> list[tuple[list[Step], dict[str, Tensor]]]:
    """One rank's steps of every case, and the trained network on rank 0."""
    world = start(environment(), roles(cases[0].schedule), timeout_s=60, device="cpu")
    results = []
    for case in cases:
        network = build(case.model)
        cut = Network(network)
        stages = cut.stages(case.cuts(len(cut.layers)))
        here = world.with_roles(roles(case.schedule))
        steps = run(
            case.schedule,
            stages,
            case.speeds or tuple((1.0,) * len(ranks) for ranks in case.stages),
            here,
            batches=Clouds(case.model),
            loss_sum=loss_sum,
            optimizer=momentum,
            norm="frozen",
        )
        done = list(steps)
        collect(case.schedule, stages, here)
        results.append((done, network.state_dict() if world.rank == 0 else {}))
    stop(world)
    return results


@cache
def outcomes() -> list[Any]:
    return run_ranks(RANKS, train_all, list(CASES.values()))


def outcome(name: str) -> tuple[list[list[Step]], dict[str, Tensor]]:
    """Every rank's steps, and the network."""
    index = list(CASES).index(name)
    results = [rank[index] for rank in outcomes()]
    return [steps for steps, _ in results], results[0][1]


@cache
def one_process(case: Case) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and the network after the same mini-batches, whole, without processes."""
    network, batches = frozen(build(case.model)), Clouds(case.model)
    cut = Network(network)
    stages = cut.stages(case.cuts(len(cut.layers)))
    counts = iter([batches.count(mini_batch) for mini_batch in range(STEPS)])

    def mean(output: Value, targets: Tensor) -> Tensor:
        return loss_sum(output, targets) / next(counts)

    training: Delayed | Synchronous = Synchronous(stages, momentum, mean)
    if case.kind == "1f1b-async":
        training = Delayed(stages, momentum, mean, case.schedule.lags)
    losses = []
    for mini_batch in range(STEPS):
        samples = range(len(batches.voxels(mini_batch)))
        (inputs,) = batches.inputs(mini_batch, samples)
        loss = training.step(inputs, batches.targets(mini_batch, samples))
        losses.append(loss * batches.count(mini_batch))
    return losses, network.state_dict()


@pytest.mark.parametrize("name", CASES)
def test_pipelines_equal_one_process(name: str) -> None:
    """Flushing ones the plain training; asynchronous ones the simulation of delayed updates."""
    steps, state = outcome(name)
    losses, expected = one_process(CASES[name])
    assert difference(state, expected) <= TOLERANCE
    summed = [
        sum(rank[i].metrics.get("loss_sum", 0.0) for rank in steps if rank)
        for i in range(len(losses))
    ]
    assert summed == pytest.approx(losses, rel=1e-4)
