"""Pipelines against one process: the same parameters after 20 steps, over real processes.

Flushing schedules are held against plain training, asynchronous ones against a simulation of their
delayed, stashed updates (`sparsepipe.experiments.delayed`). Mini-batches have very different
numbers of voxels, one of them a single voxel; batch normalisation keeps its statistics (`frozen`),
so that a sample does not depend on the others.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from sparsepipe.experiments.delayed import Delayed
from sparsepipe.experiments.small_pipelines import (
    STEPS,
    Clouds,
    Model,
    build,
    difference,
    frozen,
    loss_sum,
    momentum,
)
from sparsepipe.runtime.network import Network
from sparsepipe.runtime.run import NormMode, collect_weights, run_pipeline
from sparsepipe.runtime.values import Value
from sparsepipe.schedule import lists as schedules
from sparsepipe.schedule.lists import FLUSHING, Schedule, ScheduleKind, StageRanks, roles
from systems.environment import Environment, free_port
from systems.figures.claims import Claim, Target, claim
from systems.figures.experiment import Outcome, Results
from systems.figures.text import table
from systems.network.distributed import start, stop
from systems.runs import record

RANKS = 4
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """One run over all ranks."""

    kind: ScheduleKind
    stages: StageRanks
    model: Model = "vgg"
    micro_batches: int = 1
    in_flight: tuple[int, ...] | None = None
    speeds: tuple[tuple[float, ...], ...] = ()
    late_updates: bool = False
    norm: NormMode = "frozen"

    @property
    def batches(self) -> Clouds:
        """The mini-batches; with more voxels where batch normalisation takes statistics of them."""
        return Clouds(self.model, more=0 if self.norm == "frozen" else 50)

    @property
    def shares(self) -> tuple[tuple[float, ...], ...]:
        """The shares of each stage's replicas; equal ones where the case has no speeds."""
        return self.speeds or tuple((1.0,) * len(ranks) for ranks in self.stages)

    @property
    def schedule(self) -> Schedule:
        """The lists of actions of all ranks."""
        return schedules.build_schedule(
            self.kind,
            self.stages,
            mini_batches=STEPS,
            micro_batches=self.micro_batches,
            in_flight=self.in_flight,
            late_updates=self.late_updates,
        )

    def cuts(self, layers: int) -> list[int]:
        """Return where stages begin, so that they have equal numbers of layers."""
        count = len(self.stages)
        return [layers * k // count for k in range(1, count)]


CHAIN: StageRanks = ((0,), (1,), (2,), (3,))
CASES = {
    "gpipe, 4 stages": Case("gpipe", CHAIN, micro_batches=3),
    "1f1b, 2 stages of 1 and 3": Case(
        "1f1b", ((0,), (1, 2, 3)), micro_batches=2, speeds=((1,), (3, 1, 2))
    ),
    "1f1b, U-Net, 3 stages": Case(
        "1f1b", ((0,), (1, 2), (3,)), "unet", micro_batches=2, speeds=((1,), (1, 2), (1,))
    ),
    "async, 4 stages": Case("1f1b-async", CHAIN),
    "async, 2 stages of 2, more in flight": Case(
        "1f1b-async", ((0, 1), (2, 3)), in_flight=(4, 1), speeds=((1, 2), (3, 1))
    ),
    "async, ranks with 2 stages": Case("1f1b-async", ((0,), (1, 2), (0,), (3,))),
}
QUICK = ("1f1b, 2 stages of 1 and 3", "async, 4 stages", "async, 2 stages of 2, more in flight")
"""The cases of level quick; the tests train all."""


@cache
def one_process(case: Case) -> tuple[list[float], dict[str, Tensor]]:
    """Train a case's mini-batches in this process; losses (sums), and the network afterwards."""
    network, batches = frozen(build(case.model)), case.batches
    cut = Network(network)
    stages = cut.stages(case.cuts(len(cut.layers)))
    counts = iter([batches.count(mini_batch) for mini_batch in range(STEPS)])

    def mean(output: Value, targets: Tensor) -> Tensor:
        return loss_sum(output, targets) / next(counts)

    lags = case.schedule.lags if case.kind == "1f1b-async" else [0] * len(stages)
    training = Delayed(stages, momentum, mean, lags)
    losses = []
    for mini_batch in range(STEPS):
        samples = range(len(batches.voxels(mini_batch)))
        (inputs,) = batches.inputs(mini_batch, samples)
        loss = training.step(inputs, batches.targets(mini_batch, samples))
        losses.append(loss * batches.count(mini_batch))
    return losses, network.state_dict()


def measure(level: str, folder: Path) -> Results:
    """Train cases on 4 ranks of this machine and in one process."""
    names = QUICK if level == "quick" else tuple(CASES)
    compared = record.once(folder / "differences.json", lambda: differences(names))
    return {name: [result] for name, result in compared.items()}


def differences(names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Train the named cases on processes of this machine, and compare their parameters.

    Returns:
        for each case, the largest relative difference of a parameter from what it must equal
        (`difference`), and from synchronous training, which an asynchronous pipeline does not
        equal (`from_synchronous`).

    Raises:
        torch.multiprocessing.ProcessRaisedException: a rank failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "differences.json")
        torch.multiprocessing.spawn(_main, (free_port(), names, result), nprocs=RANKS)
        compared: dict[str, dict[str, float]] = record.read_json(result)
    return compared


def _main(rank: int, port: int, names: Sequence[str], result: Path) -> None:
    """Train all cases, in the process of one rank; rank 0 compares, and writes the result."""
    torch.set_num_threads(1)
    place = Environment(
        launcher="none",
        rank=rank,
        world_size=RANKS,
        local_rank=rank,
        local_world_size=RANKS,
        master_address="127.0.0.1",
        master_port=port,
    )
    world = start(place, ["stage"] * RANKS, timeout_s=60, device="cpu")
    compared: dict[str, dict[str, float]] = {}
    for name in names:
        case = CASES[name]
        here = world.with_roles(roles(case.schedule))
        network = build(case.model)
        cut = Network(network)
        stages = cut.stages(case.cuts(len(cut.layers)))
        steps = run_pipeline(
            case.schedule,
            stages,
            case.shares,
            here,
            batches=case.batches,
            loss_sum=loss_sum,
            optimizer=momentum,
            norm=case.norm,
        )
        assert len(list(steps)) == STEPS
        collect_weights(case.schedule, stages, here)
        if rank == 0:
            compared[name] = _compared(case, network.state_dict())
    stop(world)
    if rank == 0:
        record.write_json(result, compared)


def _compared(case: Case, ours: dict[str, Tensor]) -> dict[str, float]:
    """Measure how far the parameters of a pipeline are from those of the same training in one
    process."""
    plain = replace(case, kind="gpipe", in_flight=None, late_updates=False)
    return {
        "difference": difference(ours, one_process(case)[1]),
        "from_synchronous": difference(ours, one_process(plain)[1]),
    }


def conclude(results: Results, folder: Path) -> Outcome:
    """The largest difference of the flushing schedules, and of the asynchronous ones."""
    flushing = [name for name in results if CASES[name].kind in FLUSHING]
    asynchronous = [name for name in results if name not in flushing]
    apart = min(results[name][0]["from_synchronous"] for name in asynchronous)
    simulation = f"the simulation of its delayed updates ({apart:.2g} and more from synchronous)"
    claims = (
        _equal("flushing", "one process", results, flushing),
        _equal("asynchronous", simulation, results, asynchronous),
    )
    columns = ("pipeline", "from what it must equal", "from synchronous training")
    rows = [
        (name, f"{compared['difference']:.1e}", f"{compared['from_synchronous']:.1e}")
        for name, (compared,) in results.items()
    ]
    above = (
        f"Pipelines on {RANKS} ranks after {STEPS} steps, float32, largest relative difference of "
        "a parameter (measured):"
    )
    return Outcome(figures=(), claims=claims, notes=(table(columns, rows, above),))


def _equal(kind: str, reference: str, results: Results, names: list[str]) -> Claim:
    """The claim that pipelines of a kind end with the reference's parameters."""
    return claim(
        f"sparsepipe.{kind}-differs-from-one-process.20-steps.measured",
        f"largest relative difference of a parameter after {STEPS} steps of {kind} pipelines "
        f"from {reference}, of {len(names)}",
        [max(float(results[name][0]["difference"]) for name in names)],
        Target(most=TOLERANCE),
    )
