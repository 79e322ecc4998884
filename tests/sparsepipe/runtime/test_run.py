"""Pipelines in real processes make the updates of one process."""

import os
import signal
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.experiments import equivalence
from sparsepipe.experiments.equivalence import RANKS, TOLERANCE, Case, one_process
from sparsepipe.experiments.small_pipelines import (
    SAMPLES,
    STEPS,
    Clouds,
    build,
    difference,
    frozen,
    loss_sum,
    momentum,
)
from sparsepipe.runtime.network import Network
from sparsepipe.runtime.play import StageMemoryError
from sparsepipe.runtime.run import collect_weights, run_pipeline, sample_ranges
from sparsepipe.runtime.samples import within
from sparsepipe.runtime.values import Value, features_of, join_samples, take_samples
from sparsepipe.schedule import lists as schedules
from sparsepipe.schedule.lists import roles
from sparsepipe.train.summary import steady_state
from systems.environment import environment
from systems.network.distributed import World, start, stop
from systems.network.transport import TransportError
from systems.runs.record import Step
from tests.ranks import RankError, run_ranks
from tests.sparsepipe.own_network import OwnUNet

CASES = {
    **equivalence.CASES,
    "1f1b, ranks with 2 stages": Case("1f1b", ((0, 2), (1,), (0,), (1, 3)), micro_batches=3),
    "data parallel": Case("gpipe", ((0, 1, 2, 3),), speeds=((1, 2, 3, 4),)),
    "async, data parallel, late": Case(
        "1f1b-async", ((0, 1, 2, 3),), speeds=((1, 2, 1, 2),), late_updates=True
    ),
    "async, 3 stages, late, one rank idle": Case(
        "1f1b-async", ((0, 1), (3,)), speeds=((2, 1), (1,)), late_updates=True
    ),
    "async, U-Net, 3 stages": Case(
        "1f1b-async", ((0, 1), (2,), (3,)), "unet", speeds=((1, 3), (1,), (1,))
    ),
}
NORM = Case("1f1b", ((0,), (1, 2), (3,)), micro_batches=2, speeds=((1,), (1, 2), (1,)), norm="part")
INFERENCE = Case("forward", ((0, 1), (2,), (3,)), "unet", speeds=((1, 2), (1,), (1,)))
Outputs = list[tuple[int, range, Tensor]]


OWN = Case("1f1b", ((0, 1), (2, 3)), "unet", micro_batches=2, speeds=((1, 2), (3, 1)))
TYPES = {torch.float64: 1e-12, torch.bfloat16: 0.02, torch.float16: 3e-3}
"""How far parameters may be from those of one process, as parts of what training changed them."""
FEW = 2
"""Mini-batches that the user's network is trained on."""


class Typed(Clouds):
    """Mini-batches of another floating point type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__("unet")
        self._dtype = dtype

    def inputs(self, mini_batch: int, samples: range) -> tuple[Value, ...]:
        (value,) = super().inputs(mini_batch, samples)
        assert isinstance(value, SparseTensor)
        return (value.replace(value.features.to(self._dtype)),)


def own(dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(3)
    return frozen(OwnUNet()).to(dtype)


def quick(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Changes that bfloat16 can hold."""
    return torch.optim.SGD(parameters, lr=1.0)


def run_own(world: World) -> list[dict[str, Tensor]]:
    """A user's network of every type after a few mini-batches."""
    schedule = schedules.build_schedule(OWN.kind, OWN.stages, mini_batches=FEW, micro_batches=2)
    results = []
    for dtype in TYPES:
        network = own(dtype)
        cut = Network(network)
        stages = cut.stages(OWN.cuts(len(cut.layers)))
        steps = run_pipeline(
            schedule,
            stages,
            OWN.shares,
            world.with_roles(roles(schedule)),
            batches=Typed(dtype),
            loss_sum=loss_sum,
            optimizer=quick,
            norm="frozen",
        )
        assert len(list(steps)) == FEW
        collect_weights(schedule, stages, world)
        results.append(network.state_dict())
    return results


Result = tuple[list[Step], dict[str, Tensor], Outputs]


def run_all(cases: Sequence[Case]) -> tuple[list[Result], list[dict[str, Tensor]]]:
    """One rank's steps of every case, the trained network on rank 0, what inference computed; and
    the user's network."""
    world = start(environment(), roles(cases[0].schedule), timeout_s=60, device="cpu")
    results = run_cases(cases, world)
    of_user = run_own(world)
    stop(world)
    return results, of_user


def run_cases(cases: Sequence[Case], world: World) -> list[Result]:
    """One rank's steps of every case, the trained network on rank 0, what inference computed."""
    results = []
    for case in cases:
        network = build(case.model)
        cut = Network(network)
        stages = cut.stages(case.cuts(len(cut.layers)))
        here = world.with_roles(roles(case.schedule))
        outputs: Outputs = []

        def keep(
            mini_batch: int, samples: range, output: Value, outputs: Outputs = outputs
        ) -> None:
            outputs.append((mini_batch, samples, features_of(output)))

        steps = run_pipeline(
            case.schedule,
            stages,
            case.shares,
            here,
            batches=case.batches,
            loss_sum=loss_sum,
            optimizer=None if case.kind == "forward" else momentum,
            norm=case.norm,
            on_output=keep,
        )
        done = list(steps)
        collect_weights(case.schedule, stages, here)
        results.append((done, network.state_dict() if world.rank == 0 else {}, outputs))
    return results


@cache
def outcomes() -> list[Any]:
    return run_ranks(RANKS, run_all, [*CASES.values(), NORM, INFERENCE])


def outcome(case: Case) -> tuple[list[list[Step]], dict[str, Tensor], Outputs]:
    """Every rank's steps, the network, and the last stage's outputs."""
    index = [*CASES.values(), NORM, INFERENCE].index(case)
    results = [rank[0][index] for rank in outcomes()]
    outputs = [output for rank in results for output in rank[2]]
    return [rank[0] for rank in results], results[0][1], outputs


@pytest.mark.parametrize("name", CASES)
def test_pipelines_equal_one_process(name: str) -> None:
    """Flushing ones the plain training; asynchronous ones the simulation of delayed updates."""
    steps, state, _ = outcome(CASES[name])
    losses, expected = one_process(CASES[name])
    assert difference(state, expected) <= TOLERANCE
    summed = [
        sum(rank[i].metrics.get("loss_sum", 0.0) for rank in steps if rank)
        for i in range(len(losses))
    ]
    assert summed == pytest.approx(losses, rel=1e-4)


def test_as_many_versions_are_kept_as_the_planner_counts() -> None:
    """One for every mini-batch in flight, whether updates are late or not."""
    for name, case in CASES.items():
        if case.kind != "1f1b-async" or "ranks with 2 stages" in name:
            continue
        steps, _, _ = outcome(case)
        for stage, ranks in enumerate(case.stages):
            most = [max(step.metrics["versions"] for step in steps[rank]) for rank in ranks]
            assert most == [case.schedule.in_flight[stage]] * len(ranks)


def part_by_part(case: Case) -> dict[str, Tensor]:
    """Training in one process where every layer sees the parts that the replicas do."""
    network, batches = build(case.model).train(), case.batches
    cut = Network(network)
    stages = cut.stages(case.cuts(len(cut.layers)))
    ranges = sample_ranges(case.schedule, case.shares, batches)
    optimizer = momentum(network.parameters())
    for mini_batch in range(STEPS):
        optimizer.zero_grad()
        for micro in range(mini_batch * case.micro_batches, (mini_batch + 1) * case.micro_batches):
            first, end = ranges(0, micro)[0].start, ranges(0, micro)[-1].stop
            values = batches.inputs(mini_batch, range(first, end))
            for number, stage in enumerate(stages):
                parts = [within(part, range(first, end)) for part in ranges(number, micro) if part]
                values = join_samples([stage(*take_samples(values, part)) for part in parts])
            loss = loss_sum(values[0], batches.targets(mini_batch, range(first, end)))
            (loss / batches.count(mini_batch)).backward()
        optimizer.step()
    return dict(network.named_parameters())


def test_batch_norm_by_part_equals_one_process_part_by_part() -> None:
    expected = {name: p.detach() for name, p in part_by_part(NORM).items()}
    _, state, _ = outcome(NORM)
    assert difference({name: state[name] for name in expected}, expected) <= TOLERANCE


def test_inference_equals_the_network() -> None:
    steps, _, outputs = outcome(INFERENCE)
    network = build(INFERENCE.model).eval()
    assert len(outputs) == STEPS
    for mini_batch, samples, output in outputs:
        (inputs,) = INFERENCE.batches.inputs(mini_batch, samples)
        with torch.no_grad():
            assert torch.allclose(output, features_of(network(inputs)), rtol=1e-4, atol=1e-5)
    steady = steady_state(INFERENCE.schedule, steps, warm_up=2)
    assert steady.latency_s > 0
    assert steady.samples_per_s > 0


def test_a_summary_counts_every_sample_and_second_once() -> None:
    for name in ("1f1b, 2 stages of 1 and 3", "async, ranks with 2 stages"):
        steps, _, _ = outcome(CASES[name])
        steady = steady_state(CASES[name].schedule, steps, warm_up=2)
        assert steady.samples_per_s * steady.mean_step_s == pytest.approx(SAMPLES)
        assert len(steady.utilisation) == RANKS
        assert all(0 < busy <= 1 for busy in steady.utilisation)


def test_a_users_network_of_any_type_trains_in_a_pipeline() -> None:
    for state, (dtype, tolerance) in zip(outcomes()[0][1], TYPES.items(), strict=True):
        network, batches, everything = own(dtype), Typed(dtype), range(SAMPLES)
        optimizer = quick(network.parameters())
        for mini_batch in range(FEW):
            optimizer.zero_grad()
            (inputs,) = batches.inputs(mini_batch, everything)
            loss = loss_sum(network(inputs), batches.targets(mini_batch, everything))
            (loss / batches.count(mini_batch)).backward()
            optimizer.step()
        fresh = own(dtype).state_dict()
        assert all(state[name].dtype == value.dtype for name, value in fresh.items())
        trained = {name: value.detach() for name, value in network.named_parameters()}
        off, change = _distance(state, trained), _distance(fresh, trained)
        assert change > 0.1
        assert off <= tolerance * change


def _distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The Euclidean distance of all the values that are in `theirs`."""
    squares = [(ours[name].double() - theirs[name].double()).square().sum() for name in theirs]
    return float(torch.stack(squares).sum().sqrt())


class Greedy(torch.nn.Module):
    """Wants more memory than there is for mini-batches above a size."""

    def forward(self, value: Any) -> tuple[Any, ...]:
        if len(value) > 400:
            torch.empty(len(value), 2**50)
        return (value,)


def starve(world: World) -> str:
    try:
        list(
            run_pipeline(
                schedules.build_schedule("forward", ((0,),), mini_batches=STEPS),
                [Greedy()],
                ((1.0,),),
                world,
                batches=Clouds("vgg"),
                loss_sum=loss_sum,
            )
        )
    except StageMemoryError as error:
        return str(error)
    return "it fitted"


class Frozen(torch.nn.Module):
    """Notes in which mode its layers are when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout().eval())
        self.seen: set[tuple[bool, ...]] = set()

    def forward(self, value: Any) -> tuple[Any, ...]:
        self.seen.add(modes(self))
        return (value,)


def modes(module: torch.nn.Module) -> tuple[bool, ...]:
    return tuple(each.training for each in module.modules())


def modes_seen(world: World, kind: schedules.ScheduleKind, training: bool) -> tuple[Any, Any, Any]:
    """The modes of a stage's layers before, while and after it runs."""
    schedule = schedules.build_schedule(kind, ((0,),), mini_batches=2)
    stage = Frozen()
    stage.training = training
    before = modes(stage)
    arguments: dict[str, Any] = {"batches": Clouds("vgg"), "loss_sum": no_loss}
    list(run_pipeline(schedule, [stage], ((1.0,),), world, **arguments))
    return before, stage.seen, modes(stage)


def no_loss(output: Value, targets: Tensor) -> Tensor:
    return torch.zeros((), requires_grad=True)


def alone() -> tuple[str, list[Any]]:
    """In one process, since starting it takes longer than what it does."""
    world = start(environment(), ["stage 0"], timeout_s=30, device="cpu")
    seen = [modes_seen(world, "gpipe", training) for training in (True, False)]
    return starve(world), [*seen, modes_seen(world, "forward", True)]


@cache
def of_one_rank() -> tuple[str, list[Any]]:
    (found,) = run_ranks(1, alone)
    return found


def test_frozen_layers_stay_frozen_and_modes_come_back() -> None:
    _, found = of_one_rank()
    for before, _, after in found:
        assert after == before
    root, layers, linear, dropout = True, True, True, False
    assert [seen for _, seen, _ in found] == [
        {(root, layers, linear, dropout)},
        {(True,) * 4},
        {(False,) * 4},
    ]


def test_a_mini_batch_that_does_not_fit_is_named() -> None:
    text, _ = of_one_rank()
    voxels = sum(Clouds("vgg").voxels(0))
    assert text.startswith("rank 0 (stage 0): mini-batch 0 does not fit at stage 0: forward of ")
    assert f"{voxels} voxels in 6 samples" in text
    assert f"with {voxels * 8:,} bytes" in text
    assert f"{voxels * 2**50 * 4} bytes" in text


class Deadly(Clouds):
    """Kills its rank in the fourth mini-batch."""

    def targets(self, mini_batch: int, samples: range) -> Tensor:
        if mini_batch == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().targets(mini_batch, samples)


def die(folder: Path) -> None:
    """Three ranks, of which rank 1 dies; the others leave what they were told."""
    schedule = schedules.build_schedule("1f1b-async", ((0,), (1, 2)), mini_batches=STEPS)
    world = start(environment(), roles(schedule), timeout_s=60, device="cpu")
    cut = Network(build("vgg"))
    steps = run_pipeline(
        schedule,
        cut.stages([len(cut.layers) // 2]),
        ((1.0,), (1.0, 1.0)),
        world,
        batches=Deadly("vgg"),
        loss_sum=loss_sum,
        optimizer=momentum,
        norm="frozen",
    )
    try:
        list(steps)
    except TransportError as error:
        Path(folder, f"{world.rank}.part").write_text(str(error))
        Path(folder, f"{world.rank}.part").rename(Path(folder, str(world.rank)))
        raise


def test_the_death_of_a_rank_ends_the_others_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(RankError):
        run_ranks(3, die, tmp_path)
    told = {rank: Path(tmp_path, str(rank)).read_text() for rank in (0, 2)}
    assert told[0].startswith("rank 0 (stage 0): ")
    assert "rank 1 (stage 1) failed, the peer is gone" in told[0]
    assert told[2].startswith("rank 2 (stage 1): ")
