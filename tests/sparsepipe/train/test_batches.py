"""The mini-batches of a pipeline: ranks make what they need, and have what one process has."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsepipe.data.cloud import Cloud
from sparsepipe.data.splits import Split
from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.options import Options
from sparsepipe.planner.stages import PlannedStage, Replica
from sparsepipe.runtime.network import Network
from sparsepipe.runtime.samples import shared_out
from sparsepipe.train.batches import CloudBatches
from sparsepipe.train.pipelined import train_in_pipeline
from sparsepipe.train.stages import schedule_choice_of
from sparsepipe.train.workload import Workload, open_workload
from systems.environment import environment
from systems.network.distributed import start, stop
from systems.runs.trace import Tracer
from tests.ranks import run_ranks

pytestmark = pytest.mark.distributed

CLASSIFIER = Options(
    scheme="pipeline",
    width=0.0625,
    points=128,
    voxel_size=0.1,
    batch_size=9,
    steps=3,
    test_clouds=4,
)
MINI_BATCHES, MICRO_BATCHES, FIRST = 3, 2, 600
"""The first epoch has 533 mini-batches of nine."""


@dataclass
class Counting:
    """Clouds that remember which of them were made."""

    split: Split
    made: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.split)

    def cloud(self, index: int, epoch: int = 0) -> Cloud:
        self.made.append(index)
        return self.split.cloud(index, epoch)


def stage(*shares: tuple[int, float], first: int = 0, end: int = 1) -> PlannedStage:
    """Replicas by rank and share."""
    replicas = tuple(Replica(rank=rank, device="here", share=share) for rank, share in shares)
    return PlannedStage(first=first, end=end, replicas=replicas)


STAGES = (stage((0, 0.7), (2, 0.3)), stage((1, 0.4), (3, 0.6)))
"""Rank 4 has none."""


def counted(workload: Workload) -> tuple[Workload, list[int]]:
    """The workload, and the list of the clouds that it will make for training."""
    clouds = Counting(workload.data.train)
    same = replace(workload, data=replace(workload.data, train=clouds))
    _ = same.labels_voxels  # looks at a cloud
    clouds.made.clear()
    return same, clouds.made


def compare(options: Options) -> tuple[list[int], list[int]]:
    """Compare this rank's samples with the whole mini-batches; returns the numbers of the clouds
    that it has made, and of those that it has taken."""
    place = environment()
    world = start(place, ["worker"] * place.world_size, timeout_s=60, device="cpu")
    whole = open_workload(options, 0)
    workload, made = counted(whole)
    mini_batches, order = whole.mini_batches(FIRST), whole.order(FIRST)
    batches = CloudBatches(workload, world, STAGES, MICRO_BATCHES, first=FIRST, count=MINI_BATCHES)
    taken: list[int] = []
    for number in range(MINI_BATCHES):
        batch, (_, clouds) = next(mini_batches), next(order)
        assert batches.voxels(number) == batch.voxels
        assert batches.count(number) == len(batch.targets)
        for samples in _of_rank(world.rank, STAGES[0], batch.voxels):
            taken += clouds[samples.start : samples.stop]
            (value,) = batches.inputs(number, samples)
            expected = batch.inputs_of(samples, world.device)
            assert isinstance(value, SparseTensor)
            assert isinstance(expected, SparseTensor)
            assert torch.equal(value.features, expected.features)
            assert torch.equal(value.coordinates, expected.coordinates)
        for samples in _of_rank(world.rank, STAGES[1], batch.voxels):
            if options.model != CLASSIFIER.model:
                taken += clouds[samples.start : samples.stop]
            targets = batches.targets(number, samples)
            assert torch.equal(targets, batch.targets_of(samples, world.device))
    mini_batches.close()
    batches.close()
    stop(world)
    return made, taken


def _of_rank(rank: int, on: PlannedStage, voxels: Sequence[int]) -> list[range]:
    """What the rank takes of every micro-batch at a stage, if anything."""
    if rank not in on.ranks:
        return []
    parts = [shared_out(voxels, on.shares, part, MICRO_BATCHES) for part in range(MICRO_BATCHES)]
    own = on.ranks.index(rank)
    return [shared[own] for shared in parts if shared[own]]


@pytest.mark.parametrize("model", ["minkvgg16-bn", "minkunet14"])
def test_ranks_make_what_they_need_and_have_what_one_process_has(model: str) -> None:
    found = run_ranks(5, compare, replace(CLASSIFIER, model=model))
    everything = MINI_BATCHES * CLASSIFIER.batch_size
    for rank, (made, taken) in enumerate(found):
        assert len(made) == len(set(made))  # no cloud twice
        assert set(taken) <= set(made)
        makes = rank in STAGES[0].ranks or (rank in STAGES[1].ranks and model == "minkunet14")
        assert bool(made) == makes
        assert len(made) < everything
    first = [set(found[rank][0]) for rank in STAGES[0].ranks]
    assert len(first[0] | first[1]) == everything
    assert len(first[0] & first[1]) <= everything / 3  # those at the borders
    if model == "minkunet14":
        assert set(found[1][0]) == set(found[1][1])


def train_with_bad_files(options: Options) -> list[float]:
    """Train on files of which some cannot be read; returns how many rank 0 has counted."""
    place = environment()
    world = start(place, ["worker"] * place.world_size, timeout_s=60, device="cpu")
    workload = open_workload(options, 0)
    count = len(Network(workload.network()).layers)
    whole = (stage((0, 0.5), (1, 0.5), end=count),)
    steps = list(
        train_in_pipeline(whole, schedule_choice_of(options), world, workload, Tracer.off())
    )
    stop(world)
    return [step.metrics["bad_files"] for step in steps if "bad_files" in step.metrics]


def test_rank_0_counts_the_bad_files_of_all(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for number in range(8):
                path = folder / f"{number}.npy"
                if split == "train" and number in (1, 4, 6):
                    path.write_bytes(b"no array")
                else:
                    np.save(path, generator.random((60, 3)))
    options = replace(CLASSIFIER, data=f"points:{tmp_path}", batch_size=8, steps=2)
    first, second = run_ranks(2, train_with_bad_files, options)
    assert (first, second) == ([6], [])
