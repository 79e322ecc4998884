"""One point cloud, and what is done to one: rotate, cut, view from a side, add noise, fit.

z points up everywhere. `Pose.place` turns the samples of a surface into a cloud in the unit cube.
"""

from dataclasses import dataclass

import numpy as np

from sparsepipe.names import Rotation
from systems.schema import InputError

ELEVATION = np.radians(35)  # of a viewer above or below the horizon, at most
CUT = (0.05, 0.4)  # share of the points that a half-space takes away
LARGEST = 1e18  # metres or any unit: squares of larger coordinates overflow float32


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points float32 [N, 3] with features float32 [N, F], N and F >= 1; label -1 says unknown.

    Raises InputError if there are no points, lengths differ, or a value is not finite.
    """

    points: np.ndarray
    features: np.ndarray
    label: int

    def __post_init__(self) -> None:
        points, features = self.points, self.features
        if points.ndim != 2 or points.shape[1] != 3:
            raise InputError(f"points of shape {list(points.shape)}; give [N, 3]")
        if features.ndim != 2 or len(features) != len(points) or features.shape[1] == 0:
            shapes = f"{list(features.shape)} for points {list(points.shape)}"
            raise InputError(f"features of shape {shapes}; give [N, F], one row a point")
        if len(points) == 0:
            raise InputError("no points")
        check_finite(points, "point")
        if not np.isfinite(features).all():
            raise InputError("features are not all finite")


def check_finite(points: np.ndarray, word: str) -> None:
    """Raise InputError for the first row of points [N, 3] that is not finite or overflows."""
    usable = np.abs(points) <= LARGEST  # false for NaN
    if not usable.all():
        row = int(np.flatnonzero(~usable.all(axis=1))[0])
        values = ", ".join(f"{value:g}" for value in points[row])
        raise InputError(f"{word} {row} is ({values}), not a finite place")


def make_cloud(points: np.ndarray, features: np.ndarray | None, label: int) -> Cloud:
    """A cloud of any real dtype; features of ones [N, 1] where there are none."""
    if features is None:
        features = np.ones((len(points), 1))
    with np.errstate(over="ignore"):  # becomes infinite, which Cloud refuses
        return Cloud(points.astype(np.float32), features.astype(np.float32), label)


@dataclass(frozen=True)
class Pose:
    """How clouds of one class vary.

    rotation  about the vertical axis, about any axis, or none
    size      range of the longest side in the unit cube
    noise     largest standard deviation of Gaussian noise on points, as a share of the longest side
    partial   probability that a part is missing: cut off by a plane, or hidden from a viewer
    """

    rotation: Rotation = "vertical"
    size: tuple[float, float] = (0.7, 1.0)
    noise: float = 0.01
    partial: float = 0.5

    def place(
        self, points: np.ndarray, normals: np.ndarray | None, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Points float64 [N, 3] in a random pose in the unit cube, with normals [N, 3] if any.

        Fewer points come back where a part is missing: their density on the surface stays.
        """
        turn = rotation_matrix(self.rotation, generator)
        points = fit(points @ turn.T, 1.0)
        normals = None if normals is None else normals @ turn.T
        if generator.random() < self.partial:
            part = cut if generator.random() < 0.5 else view
            stays = part(points, generator)
            points, normals = points[stays], None if normals is None else normals[stays]
        deviation = generator.uniform(0, self.noise)
        points = points + deviation * generator.standard_normal(points.shape)
        return fit(points, generator.uniform(*self.size)), normals


AS_STORED = Pose(rotation="none", size=(1.0, 1.0), noise=0.0, partial=0.0)


def fit(points: np.ndarray, size: float) -> np.ndarray:
    """Points [N, 3] moved to the middle of the unit cube, their longest side scaled to `size`.

    Points that all coincide come to lie in the middle.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    longest = (high - low).max()
    return (points - (low + high) / 2) * (size / longest if longest > 0 else 0.0) + 0.5


def rotation_matrix(rotation: Rotation, generator: np.random.Generator) -> np.ndarray:
    """float64 [3, 3], uniform over the rotations of this kind."""
    if rotation == "none":
        return np.eye(3)
    if rotation == "vertical":
        w, z = _unit_circle(generator.uniform(0, np.pi))
        x = y = 0.0
    else:
        quaternion = generator.standard_normal(4)
        w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def cut(points: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Rows int64 of the points that stay when a plane in a random direction cuts some off."""
    height = points @ _direction(np.arcsin(generator.uniform(-1, 1)), generator)
    return np.flatnonzero(height <= np.quantile(height, 1 - generator.uniform(*CUT)))


def view(points: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Rows int64 of the points that someone far away sees, near the horizon on a random side."""
    towards = _direction(generator.uniform(-ELEVATION, ELEVATION), generator)
    return np.flatnonzero(visible(points, towards))


def visible(points: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """bool [N]: which points [N, 3] of a surface are not hidden, seen from the direction [3].

    A depth buffer whose cells hold some five samples of the side in front, so that less than 1 % of
    the far side shows through. A point may lie two cells behind the nearest one of its own cell:
    steep sides are seen, but so is the far side of what is thinner than that.
    """
    cells = max(3, int(np.sqrt(len(points)) / 4))
    right = np.cross(towards, np.eye(3)[np.abs(towards).argmin()])
    right /= np.linalg.norm(right)
    across = points @ np.stack([right, np.cross(towards, right)], axis=1)
    across -= across.min(axis=0)
    width = max(across.max() / cells, np.finfo(float).tiny)
    column, row = np.minimum((across / width).astype(np.int64), cells - 1).T
    cell, nearness = column * cells + row, points @ towards
    nearest = np.full(cells * cells, -np.inf)
    np.maximum.at(nearest, cell, nearness)
    return nearness >= nearest[cell] - 2 * width


def _direction(elevation: float, generator: np.random.Generator) -> np.ndarray:
    """A unit vector [3] at this elevation, with any azimuth."""
    (level, up), (x, y) = _unit_circle(elevation), _unit_circle(generator.uniform(0, 2 * np.pi))
    return np.array([level * x, level * y, up])


def _unit_circle(angle: float) -> tuple[float, float]:
    return float(np.cos(angle)), float(np.sin(angle))
