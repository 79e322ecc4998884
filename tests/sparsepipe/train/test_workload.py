"""Mini-batches as ranks see them: the same everywhere, whoever makes them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.options import Options
from sparsepipe.runtime.batch import Batch
from sparsepipe.train.workload import accuracy, check_own, open_workload
from systems.schema import InputError

SMALL = Options(width=0.0625, points=128, voxel_size=0.2, batch_size=4)
CPU = torch.device("cpu")


def sparse(batch: Batch) -> SparseTensor:
    assert isinstance(batch.inputs, SparseTensor)
    return batch.inputs


def test_mini_batches_depend_on_the_seed_alone() -> None:
    first, again, other = (open_workload(SMALL, seed).mini_batches() for seed in (1, 1, 2))
    for _ in range(3):
        a, b, c = next(first), next(again), next(other)
        assert torch.equal(sparse(a).coordinates, sparse(b).coordinates)
        assert torch.equal(a.targets, b.targets)
        assert sparse(a).batch_size == 4
        assert not torch.equal(sparse(a).keys, sparse(c).keys)
    for batches in (first, again, other):
        batches.close()


def test_networks_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        return next(open_workload(SMALL, seed).network().parameters()).detach()

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


class ByLabel(nn.Module):
    """Answers class 0 whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Dropout().eval()

    def forward(self, inputs: SparseTensor) -> SparseTensor:
        logits = torch.zeros(inputs.batch_size, 12)
        logits[:, 0] = 1
        stride = inputs.maps.pool(inputs.tensor_stride)
        return SparseTensor.on(inputs.maps, stride, logits)


def test_accuracy_counts_every_test_cloud_once() -> None:
    workload = open_workload(SMALL, 0)  # classes take turns
    network = ByLabel()
    assert accuracy(network, workload, CPU, most=24) == 2 / 24
    assert accuracy(network, workload, CPU, most=25) == 3 / 25
    assert [module.training for module in network.modules()] == [True, False]  # as before


def test_clouds_without_classes_are_refused(tmp_path: Path) -> None:
    np.zeros((10, 4), "<f4").tofile(tmp_path / "000000.bin")
    np.zeros((10, 4), "<f4").tofile(tmp_path / "000001.bin")
    with pytest.raises(InputError, match="has no classes"):
        open_workload(replace(SMALL, data=f"kitti:{tmp_path}"), 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {
                "lr_schedule": "torch.optim.lr_scheduler:OneCycleLR",
                "lr_schedule_options": ("max_lr=0.1", "total_steps=40"),
            },
            "--sparsepipe.lr-schedule .* after 40 of 60 steps: .*options total_steps=60, or "
            "--sparsepipe.steps 40",
        ),
        (
            {"lr_schedule": "torch.optim.lr_scheduler:StepLR"},
            "wants step_size; give --sparsepipe.lr-schedule-options step_size=...",
        ),
        ({"lr_schedule": "torch.optim.lr_scheduler:ReduceLROnPlateau"}, "needs a metric"),
        ({"optimizer": "torch.optim:LBFGS"}, "--sparsepipe.optimizer .* needs a closure"),
        (
            {"optimizer": "torch.optim:AdamW", "optimizer_options": ("weightdecay=0",)},
            "--sparsepipe.optimizer-options weightdecay=0: .* perhaps 'weight_decay'",
        ),
    ],
)
def test_optimizer_and_schedule_are_tried_for_the_whole_run(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        check_own(replace(SMALL, steps=60, **changes), seed=0)
