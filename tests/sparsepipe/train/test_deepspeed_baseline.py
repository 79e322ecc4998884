"""What DeepSpeed's pipeline is given: volumes of one size, and refusals of what it cannot have."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from sparsepipe.engine.tensor import SparseTensor
from sparsepipe.options import Options
from sparsepipe.train.deepspeed_baseline import cells_per_side, check_deepspeed, volumes
from systems.schema import InputError

OPTIONS = Options(scheme="deepspeed", batch_size=8, micro_batches=2)
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="deepspeed is not installed"
)


@pytest.mark.parametrize(("voxel_size", "cells"), [(0.5, 32), (1 / 32, 32), (0.03, 64), (0.02, 64)])
def test_a_volume_holds_the_unit_cube_and_can_be_halved_five_times(
    voxel_size: float, cells: int
) -> None:
    assert cells_per_side(voxel_size) == cells


def test_a_volume_has_the_voxels_at_their_places_and_zeros_elsewhere() -> None:
    coordinates = torch.tensor([[0, 1, 2, 3], [2, 0, 0, 31]], dtype=torch.int32)
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = volumes(SparseTensor(features, coordinates, batch_size=3), 32)
    assert found.shape == (3, 2, 32, 32, 32)
    assert found.is_contiguous()
    assert found[0, :, 1, 2, 3].tolist() == [1, 2]
    assert found[2, :, 0, 0, 31].tolist() == [3, 4]
    assert found.count_nonzero() == 4


@pytest.mark.parametrize("place", [-1, 32])
def test_clouds_that_reach_out_of_the_volume_are_refused(place: int) -> None:
    coordinates = torch.tensor([[0, 0, place, 0]], dtype=torch.int32)
    with pytest.raises(InputError, match=r"reach out of a volume of 32 cells"):
        volumes(SparseTensor(torch.ones(1, 1), coordinates), 32)


@needs_deepspeed
def test_what_it_cannot_train_is_refused() -> None:
    check_deepspeed(OPTIONS)
    with pytest.raises(InputError, match=r"--sparsepipe.model minkunet14: .* twin of minkvgg"):
        check_deepspeed(
            replace(OPTIONS, model="minkunet14")
        )  # PipelineModule has no layers that read several
    with pytest.raises(InputError, match=r"--sparsepipe.batch-size 9: .* multiple of 2"):
        check_deepspeed(replace(OPTIONS, batch_size=9))
