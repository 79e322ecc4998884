"""A run that goes on from a checkpoint ends as one that nothing interrupted."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sparsepipe.options import Options
from sparsepipe.train import (
    one_process as train,
    pipelined as train_pipeline,
    stages as pipeline_stages,
)
from sparsepipe.train.workload import open_workload
from systems.environment import environment
from systems.network.distributed import start, stop
from systems.runs.checkpoint import open_checkpoints, read_model
from systems.runs.manifest import FINAL, name
from systems.runs.record import Step
from systems.runs.trace import Tracer
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed

STEPS, EVERY = 7, 3
SMALL = Options(width=0.0625, points=128, voxel_size=0.1, batch_size=6, steps=STEPS, test_clouds=6)
PIPELINE = replace(SMALL, scheme="pipeline")


def _train(options: Options, folder: Path, resume: str) -> list[Step]:
    place = environment()
    workload = open_workload(options, 1)
    ranks = place.world_size
    world = start(place, ["worker"] * ranks, timeout_s=60, device="cpu")
    checkpoints = open_checkpoints(
        world, folder, every=EVERY, keep=9, layout=f"{ranks} ranks", resume=resume
    )
    if options.scheme == "single":
        steps = list(
            train.train_in_one_process(options, world, workload, Tracer.off(), checkpoints)
        )
    else:
        stages = pipeline_stages.stages_at_cuts(options, workload, ranks)
        kind = pipeline_stages.schedule_choice_of(options)
        arguments = (stages, kind, world, workload, Tracer.off(), checkpoints)
        steps = list(train_pipeline.train_in_pipeline(*arguments))
    stop(world)
    return steps


def trained(
    ranks: int, options: Options, folder: Path, resume: str = "auto"
) -> tuple[list[Step], dict[str, torch.Tensor]]:
    """Rank 0's steps, and the trained network."""
    return run_ranks(ranks, _train, options, folder, resume)[0], read_model(folder / FINAL)


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (1, SMALL),
        (2, replace(PIPELINE, schedule="1f1b-async")),
        (2, replace(PIPELINE, schedule="1f1b", micro_batches=2)),
    ],
    ids=["single", "1f1b-async", "1f1b"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    ranks: int, options: Options, tmp_path: Path
) -> None:
    """Weights, statistics of batch normalisation, dropout, learning rate and data."""
    steps, whole = trained(ranks, options, tmp_path / "whole")
    assert [step.index for step in steps] == list(range(STEPS + 1))
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "whole" / name(3), tmp_path / "cut" / name(3))
    resumed, model = trained(ranks, options, tmp_path / "cut")
    assert [step.index for step in resumed] == list(range(3, STEPS + 1))
    assert difference(whole, model) == 0
    assert resumed[-1].metrics["digest"] == steps[-1].metrics["digest"]


def test_other_stages_go_on_with_the_same_network(tmp_path: Path) -> None:
    trained(2, PIPELINE, tmp_path / "two")
    saved = read_model(tmp_path / "two" / name(6))
    still = replace(PIPELINE, learning_rate=1e-9)
    steps, model = trained(3, still, tmp_path / "three", str(tmp_path / "two" / name(6)))
    assert [step.index for step in steps] == [6, 7]
    parameters = [key for key in saved if "running" not in key and "tracked" not in key]
    assert difference({k: saved[k] for k in parameters}, {k: model[k] for k in parameters}) < 1e-6
