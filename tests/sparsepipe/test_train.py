"""Training in one process: it learns, and does so twice alike."""

from dataclasses import replace

import pytest
import torch

from sparsepipe.options import Options
from sparsepipe.train import RISE, run, schedule, summarize
from sparsepipe.workload import open_workload
from systems.distributed import World
from systems.record import Step
from systems.trace import Tracer

SMALL = Options(
    width=0.0625, points=128, voxel_size=0.1, batch_size=8, steps=3, test_clouds=12, normals=True
)


class OneRank:
    """What training asks of a world."""

    rank, world_size, device = 0, 1, torch.device("cpu")


def trained(options: Options, seed: int) -> list[Step]:
    world: World = OneRank()  # type: ignore[assignment]
    return list(run(options, world, open_workload(options, seed), Tracer.off()))


def test_the_same_seed_gives_the_same_parameters_twice() -> None:
    first, again, other = trained(SMALL, 3), trained(SMALL, 3), trained(SMALL, 4)
    assert first[-1].metrics["digest"] == again[-1].metrics["digest"]
    assert first[-1].metrics["digest"] != other[-1].metrics["digest"]
    assert [s.metrics["loss_sum"] for s in first[:-1]] == [
        s.metrics["loss_sum"] for s in again[:-1]
    ]


def test_it_learns() -> None:
    options = replace(SMALL, steps=40, batch_size=16, learning_rate=0.02, normals=False)
    result = summarize(options, trained(options, 0))
    assert sum(result["loss"][-5:]) < 0.95 * sum(result["loss"][:5])
    assert result["samples_per_s"] > 0
    assert len(result["loss"]) == 40
    assert 0 <= result["test_accuracy"] <= 1


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [schedule(index, 100) for index in range(100)]
    assert rates[0] == pytest.approx(1 / RISE)
    assert max(rates) == rates[RISE - 1]
    assert all(a > b for a, b in zip(rates[RISE:], rates[RISE + 1 :], strict=False))
    assert rates[-1] < 0.01
