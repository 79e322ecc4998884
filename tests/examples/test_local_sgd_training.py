"""What the replicas of local SGD compute: against one process, and against all of them in turn."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from systems.data.batches import global_batch, share
from systems.data.dataset import Batch, Data, TensorSplit
from systems.data.digits import open_digits
from systems.environment import environment
from systems.network.distributed import start, stop
from systems.runs.checkpoint import open_checkpoints, read_model
from systems.runs.manifest import FINAL
from systems.runs.trace import Tracer
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed

STEPS, BATCH, SEED = 12, 24, 3
EQUAL = 1e-12
"""The largest relative difference of float64 sums in another order."""


def digits() -> Data:
    """The digits in float64."""
    data = open_digits()

    def doubled() -> Batch:
        images, labels = data.train.batch(range(len(data.train)))
        return images.double(), labels

    return replace(data, train=TensorSplit(len(data.train), doubled), test=TensorSplit(0, doubled))


def network() -> nn.Module:
    from local_sgd.training import network

    torch.manual_seed(SEED)
    return network().double()


def trained(period: int, folder: Path | None = None, steps: int = STEPS) -> tuple[Tensor, Any]:
    """Train this rank's replica; returns its parameters and losses. With a folder it saves a
    checkpoint every 4 steps, and goes on from the newest."""
    from local_sgd.system import SYSTEM, Options
    from local_sgd.training import train

    place = environment()
    world = start(place, ("worker",) * place.world_size, timeout_s=60, device="cpu")
    options = Options(period=period, steps=steps, batch_size=BATCH, learning_rate=0.3)
    job = SYSTEM.job(options, world_size=world.world_size, seed=SEED)
    every = 0 if folder is None else 4
    checkpoints = open_checkpoints(
        world, folder or Path(), every=every, keep=9, layout="", resume="auto" if every else "never"
    )
    model = network()
    parts = digits(), lambda: model, lambda p: torch.optim.SGD(p, lr=options.learning_rate)
    *done, _ = train(job, parts, world, Tracer.off(), checkpoints)
    stop(world)
    return flat(model), [step.metrics["loss_sum"] / step.metrics["samples"] for step in done]


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def in_turn(replicas: int, period: int) -> tuple[Tensor, list[list[float]]]:
    """What the replicas should compute, one after the other in this process: their parameters in
    the end, and the losses of every step."""
    models, data = [network() for _ in range(replicas)], digits().train
    losses: list[list[float]] = []
    for step in range(STEPS):
        losses.append([])
        samples = global_batch(BATCH, len(data), seed=SEED, step=step)
        for rank, model in enumerate(models):
            images, labels = data.batch(samples[share(BATCH, replicas, rank)])
            loss = nn.functional.cross_entropy(model(images), labels)
            losses[-1].append(loss.item())
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter.sub_(0.3 * gradient)
        if (step + 1) % period == 0 or step + 1 == STEPS:
            with torch.no_grad():
                for same in zip(*(model.parameters() for model in models), strict=True):
                    mean = sum(same) / replicas
                    for parameter in same:
                        parameter.copy_(mean)
    return flat(models[0]), losses


def assert_equal(found: Sequence[Tensor], expected: Tensor) -> None:
    for parameters in found:
        torch.testing.assert_close(parameters, expected, rtol=EQUAL, atol=EQUAL)


def test_a_period_of_one_is_one_process_on_the_joined_batch() -> None:
    expected, losses = in_turn(1, 1)
    everyone = run_ranks(3, trained, 1)
    assert_equal([parameters for parameters, _ in everyone], expected)
    means = [sum(of_step) / 3 for of_step in zip(*(own for _, own in everyone), strict=True)]
    assert means == pytest.approx(list(itertools.chain(*losses)), rel=EQUAL)


def test_replicas_go_their_own_ways_between_averages() -> None:
    """The last period is cut short: after the last step they are averaged all the same."""
    expected, losses = in_turn(3, 5)
    everyone = run_ranks(3, trained, 5)
    assert_equal([parameters for parameters, _ in everyone], expected)
    for rank, (_, own) in enumerate(everyone):
        assert own == pytest.approx([of_step[rank] for of_step in losses], rel=EQUAL)


def test_a_run_that_goes_on_ends_as_one_that_nothing_interrupted(tmp_path: Path) -> None:
    expected, _ = in_turn(2, 4)
    run_ranks(2, trained, 4, tmp_path, 7)
    everyone = run_ranks(2, trained, 4, tmp_path)
    assert_equal([parameters for parameters, _ in everyone], expected)
    assert [len(own) for _, own in everyone] == [STEPS - 4] * 2
    saved = read_model(tmp_path / FINAL)
    assert_equal([torch.cat([tensor.flatten() for tensor in saved.values()])], expected)
