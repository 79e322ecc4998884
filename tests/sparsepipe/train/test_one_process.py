"""Training in one process: it learns, and does so twice alike."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparsepipe.options import Options
from sparsepipe.train.one_process import summarize_one_process, train_in_one_process
from sparsepipe.train.optimizers import RISE, learning_rate_share
from sparsepipe.train.workload import open_workload
from systems.network.distributed import World
from systems.runs.record import Step
from systems.runs.trace import Tracer

SMALL = Options(
    width=0.0625, points=128, voxel_size=0.1, batch_size=8, steps=3, test_clouds=12, normals=True
)


class OneRank:
    """What training asks of a world."""

    rank, world_size, device = 0, 1, torch.device("cpu")


def trained(options: Options, seed: int) -> list[Step]:
    world: World = OneRank()  # type: ignore[assignment]
    return list(train_in_one_process(options, world, open_workload(options, seed), Tracer.off()))


def test_the_same_seed_gives_the_same_parameters_twice() -> None:
    first, again, other = trained(SMALL, 3), trained(SMALL, 3), trained(SMALL, 4)
    assert first[-1].metrics["digest"] == again[-1].metrics["digest"]
    assert first[-1].metrics["digest"] != other[-1].metrics["digest"]
    assert [s.metrics["loss_sum"] for s in first[:-1]] == [
        s.metrics["loss_sum"] for s in again[:-1]
    ]


def test_it_learns(tmp_path: Path) -> None:
    """To tell a plate from a needle."""
    for name, y in (("plate", 1), ("needle", 0.01)):
        corners = f"v 0 0 0\nv 1 0 0\nv 0 {y} 0\nv 1 {y} 0\n"
        (tmp_path / f"{name}.obj").write_text(f"{corners}f 1 2 3\nf 2 3 4\n")
    options = replace(SMALL, data=f"meshes:{tmp_path}", steps=100, batch_size=16, test_clouds=50)
    result = summarize_one_process(
        options, trained(replace(options, normals=False, learning_rate=0.02), 0)
    )
    assert result["loss"][0] > 0.5
    assert sum(result["loss"][-5:]) / 5 < 0.3
    assert result["test_accuracy"] > 0.8
    assert result["samples_per_s"] > 0
    assert len(result["loss"]) == 100


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [learning_rate_share(index, 100) for index in range(100)]
    assert rates[0] == pytest.approx(1 / RISE)
    assert max(rates) == rates[RISE - 1]
    assert all(a > b for a, b in zip(rates[RISE:], rates[RISE + 1 :], strict=False))
    assert rates[-1] < 0.01
