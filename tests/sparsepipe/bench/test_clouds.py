"""Clouds by name."""

import pytest
import torch

from sparsepipe.bench.clouds import NEAR, has_data, shell, task
from systems.schema import InputError


def test_a_shell_is_as_thin_as_a_voxel() -> None:
    coordinates = shell(40)
    assert len(coordinates.unique(dim=0)) == len(coordinates)
    distance = (coordinates - 19.5).norm(dim=1)
    assert (distance - 18).abs().max() < 0.5
    assert len(coordinates) > 3.5 * 18**2  # 4 pi r^2, about


def test_clouds_of_a_size() -> None:
    spheres = task("sphere:10x3", 4)
    assert spheres.batch_size == 3
    assert spheres.coordinates[:, 0].unique().tolist() == [0, 1, 2]
    shapes, fewer = task("shapes:0.1x2", 4), task("shapes:0.1x2x100", 4)
    assert shapes.coordinates[:, 1:].amin() == 0
    assert min(shapes.shape) >= shapes.coordinates[:, 1:].amax() + 1
    assert fewer.shape == (10, 10, 10)
    assert len(fewer.coordinates) <= 200 < len(shapes.coordinates)


@pytest.mark.parametrize("kind", ["kitti", "meshes", "shapes"])
def test_clouds_of_about_so_many_voxels(kind: str) -> None:
    if not has_data(f"{kind}~1"):
        pytest.skip("TESTBED_DATA has no such data")
    found = task(f"{kind}~400", 4)
    assert abs(len(found.coordinates) - 400) <= 400 * NEAR
    assert len(found.coordinates.unique(dim=0)) == len(found.coordinates)
    assert found.coordinates[:, 0].unique().tolist() == list(range(found.batch_size))
    assert found.coordinates[:, 1:].amin(0).tolist() == [0, 0, 0]
    assert found.shape == tuple((found.coordinates[:, 1:].amax(0) + 1).tolist())


@pytest.mark.parametrize(
    "name", ["cube:3", "sphere:", "shapes:0.1xtwo", "shapes:0.1x1x2x3", "sphere~30", "shapes~0"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="give kitti~VOXELS"):
        task(name, 4)


def test_a_cloud_has_no_more_voxels_than_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsepipe.bench.clouds.POINTS_PER_VOXEL", 1)
    with pytest.raises(InputError, match="voxels at most; give shapes~"):
        task("shapes~100000")


def test_pairs_are_those_of_all_neighbours() -> None:
    cells = torch.cartesian_prod(*[torch.arange(3)] * 3).int()
    found = task("sphere:12", 2)
    full = type(found)(
        coordinates=torch.nn.functional.pad(cells, (1, 0)), batch_size=1, shape=(3, 3, 3)
    )
    assert full.pairs == (2 + 3 + 2) ** 3  # the neighbours along an axis, of each of 3 voxels
    assert full.kind == "maps"
    assert found.kind == "layer"
