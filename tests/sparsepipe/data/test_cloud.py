"""Poses, partial views, and what is no cloud."""

import numpy as np
import pytest

from sparsepipe.data import shapes
from sparsepipe.data.cloud import AS_STORED, Cloud, Pose, fit, make_cloud, rotation_matrix, visible
from systems.schema import InputError

POINTS = shapes.torus(0.3).sample(1000, np.random.default_rng(0))


@pytest.mark.parametrize("rotation", ["none", "vertical", "full"])
def test_rotations_are_rotations(rotation: str) -> None:
    for seed in range(20):
        turn = rotation_matrix(rotation, np.random.default_rng(seed))  # type: ignore[arg-type]
        assert turn @ turn.T == pytest.approx(np.eye(3), abs=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)
        if rotation != "full":
            assert turn[2] == pytest.approx([0, 0, 1])


def test_full_rotations_are_uniform() -> None:
    generator = np.random.default_rng(0)
    up = np.stack([rotation_matrix("full", generator)[:, 2] for _ in range(4000)])
    assert np.abs(up.mean(axis=0)).max() < 5 / np.sqrt(3 * 4000)
    assert (up**2).mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.03)


def test_vertical_rotations_cover_the_circle() -> None:
    generator = np.random.default_rng(0)
    turns = np.stack([rotation_matrix("vertical", generator)[:2, 0] for _ in range(4000)])
    quarters = np.histogram2d(turns[:, 0], turns[:, 1], bins=2)[0]
    assert np.abs(quarters - 1000).max() < 5 * np.sqrt(1000)


@pytest.mark.parametrize("seed", range(20))
def test_placed_in_the_unit_cube(seed: int) -> None:
    points, normals = Pose().place(*POINTS, np.random.default_rng(seed))
    assert normals is not None
    assert 300 < len(points) == len(normals) <= 1000
    assert points.min() >= -1e-12
    assert points.max() <= 1 + 1e-12
    longest = (points.max(axis=0) - points.min(axis=0)).max()
    assert 0.7 <= longest <= 1
    assert np.linalg.norm(normals, axis=1) == pytest.approx(1)


def test_as_stored_only_fits() -> None:
    points, normals = AS_STORED.place(*POINTS, np.random.default_rng(0))
    assert points == pytest.approx(fit(POINTS[0], 1.0))
    assert normals is not None
    assert np.array_equal(normals, POINTS[1])
    assert points.mean() == pytest.approx(0.5, abs=0.02)


def test_points_that_coincide() -> None:
    assert np.array_equal(fit(np.full((4, 3), 7.0), 1.0), np.full((4, 3), 0.5))
    points, _ = Pose(partial=1).place(np.full((4, 3), 7.0), None, np.random.default_rng(0))
    assert np.isfinite(points).all()


def test_only_the_near_side_of_a_sphere_is_visible() -> None:
    points, _ = shapes.sphere().sample(4000, np.random.default_rng(0))
    points = fit(points, 1.0)
    towards = np.array([0.6, 0.0, 0.8])
    height = (points - 0.5) @ towards  # from -0.5 to 0.5
    seen = visible(points, towards)
    assert seen[height > 0.3].all()
    # A cell in front of these expects 5.7 samples or more, and is empty with exp(-5.7) = 0.3 %.
    assert seen[height < -0.3].mean() < 0.01


@pytest.mark.parametrize(
    ("points", "features", "message"),
    [
        (np.zeros((0, 3)), None, "no points"),
        (np.zeros((5, 2)), None, r"points of shape \[5, 2\]"),
        (np.array([[0, 1, 2], [0, np.nan, 2]]), None, r"point 1 is \(0, nan, 2\)"),
        (np.array([[np.inf, 1, 2]]), None, "point 0"),
        (np.array([[1e300, 1, 2]]), None, "point 0"),
        (np.zeros((5, 3)), np.zeros((4, 1)), r"features of shape \[4, 1\] for points \[5, 3\]"),
        (np.zeros((5, 3)), np.full((5, 1), np.nan), "features are not all finite"),
    ],
)
def test_no_cloud(points: np.ndarray, features: np.ndarray | None, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make_cloud(points, features, 0)
    assert "\n" not in str(error.value)


def test_types() -> None:
    cloud = make_cloud(np.zeros((5, 3), dtype=np.int64), None, 3)
    assert isinstance(cloud, Cloud)
    assert (cloud.points.dtype, cloud.features.dtype) == (np.float32, np.float32)
    assert (cloud.features.shape, cloud.label) == ((5, 1), 3)
