"""One point cloud, and what is done to it: rotate it, cut it, hide its far side, add noise, fit it.

z points up everywhere. `Pose.place` turns points of a surface into a cloud in the unit cube.
"""

from dataclasses import dataclass

import numpy as np

from sparsepipe.names import Rotation
from systems.schema import InputError

ELEVATION = np.radians(35)
"""How far above or below the horizon a viewer may be, in radians."""
CUT = (0.05, 0.4)
"""The smallest and the largest share of the points that a cutting plane takes away."""
LARGEST = 1e18
"""The largest coordinate, in any unit. Squares of larger ones overflow float32."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points of one object or scan, with features and a label.

    Raises:
        InputError: there are no points, the lengths differ, or a value is not finite.
    """

    points: np.ndarray
    """float32 [N, 3], N >= 1: x, y and z."""
    features: np.ndarray
    """float32 [N, F], F >= 1."""
    label: int
    """The number of the class, or -1 where it is unknown or every point has its own."""
    labels: np.ndarray | None = None
    """int64 [N]: the number of the class of each point, or -100 where it is unknown and shall not
    be learnt; None where the whole cloud has one class."""

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
        if self.labels is not None and self.labels.shape != (len(points),):
            raise InputError(
                f"labels of shape {list(self.labels.shape)} for points {list(points.shape)}; give "
                "[N], one for each point"
            )


def check_finite(points: np.ndarray, word: str) -> None:
    """Raise InputError if one of the points [N, 3] is not finite or beyond `LARGEST`. The message
    names the first such row; `word` says what a row is, such as 'vertex'."""
    usable = np.abs(points) <= LARGEST  # false for NaN
    if not usable.all():
        row = int(np.flatnonzero(~usable.all(axis=1))[0])
        values = ", ".join(f"{value:g}" for value in points[row])
        raise InputError(f"{word} {row} is ({values}), not a finite place")


def make_cloud(
    points: np.ndarray, features: np.ndarray | None, label: int, labels: np.ndarray | None = None
) -> Cloud:
    """Make a cloud of points [N, 3] and features [N, F] of any real dtype, converted to float32,
    and of labels [N] of any whole numbers. Without features, each point gets the feature 1."""
    points = _float32("points", points)
    features = np.ones((len(points), 1), np.float32) if features is None else features
    labels = None if labels is None else whole_numbers("labels", labels)
    return Cloud(points, _float32("features", features), label, labels)


def _float32(name: str, values: np.ndarray) -> np.ndarray:
    """Real numbers as float32, or InputError if some are none."""
    if values.dtype.kind not in "buif" or np.ma.is_masked(values):
        kind = "masked" if np.ma.is_masked(values) else f"of {values.dtype}"
        raise InputError(f"{name} are {kind}; give real numbers, all of them")
    with np.errstate(over="ignore"):  # what overflows becomes infinite, which Cloud refuses
        return np.asarray(values, np.float32)


def whole_numbers(name: str, values: np.ndarray) -> np.ndarray:
    """Whole numbers of any dtype and shape as int64.

    Raises:
        InputError: some are not whole, or int64 does not hold them.
    """
    real = values.dtype.kind in "buif" and not np.ma.is_masked(values)
    with np.errstate(invalid="ignore"):
        converted = values.astype(np.int64) if real else np.zeros(values.shape, np.int64)
    beyond = (converted < 0) if values.dtype.kind == "u" else (converted != values)
    if not real or np.any(beyond):
        raise InputError(
            f"{name}: {values.dtype} that are not all whole, or beyond int64; give whole numbers"
        )
    return np.asarray(converted)


@dataclass(frozen=True)
class Pose:
    """How the clouds of one class vary at random."""

    rotation: Rotation = "vertical"
    """The rotations: about the vertical axis, about any axis ("full"), or none."""
    size: tuple[float, float] = (0.7, 1.0)
    """The range of a cloud's longest side; the cube that it is put into has sides of 1."""
    noise: float = 0.01
    """The largest standard deviation of the Gaussian noise that is added to points, as a share of
    the longest side."""
    partial: float = 0.5
    """The probability that a part is missing: cut off by a plane, or hidden from a viewer."""

    def place(
        self, points: np.ndarray, normals: np.ndarray | None, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Put points float64 [N, 3], with their normals [N, 3] if any, into the unit cube in a
        random pose.

        Fewer points come back where a part is missing; those that are left are as dense as before.
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
    """Move points [N, 3] to the middle of the unit cube and scale their longest side to `size`.
    Points that all coincide come to lie in the middle."""
    low, high = points.min(axis=0), points.max(axis=0)
    longest = (high - low).max()
    return (points - (low + high) / 2) * (size / longest if longest > 0 else 0.0) + 0.5


def rotation_matrix(rotation: Rotation, generator: np.random.Generator) -> np.ndarray:
    """Draw a rotation of this kind, uniformly over all of them.

    Returns:
        Its matrix, float64 [3, 3].
    """
    if rotation == "none":
        return np.eye(3)
    if rotation == "vertical":
        w, z = _unit_circle(generator.uniform(0, np.pi))
        x = y = 0.0
    else:
        # Four normal numbers, scaled to length 1, are a uniform unit quaternion.
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
    """Cut some points [N, 3] off with a plane in a random direction. Returns the rows of the points
    that stay, int64 [M]."""
    height = points @ _direction(np.arcsin(generator.uniform(-1, 1)), generator)
    return np.flatnonzero(height <= np.quantile(height, 1 - generator.uniform(*CUT)))


def view(points: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Look at points [N, 3] from far away, from a random side near the horizon. Returns the rows of
    the points that are seen, int64 [M]."""
    towards = _direction(generator.uniform(-ELEVATION, ELEVATION), generator)
    return np.flatnonzero(visible(points, towards))


def visible(points: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Tell which points [N, 3] of a surface a viewer sees from the direction `towards` [3]. Returns
    bool [N].

    This is a depth buffer: the picture is divided into square cells, and a point is seen if it is
    about as near as the nearest point in its cell. Cells hold some five points of the side in
    front, so that less than 1 % of the far side shows through. A point may lie two cells' widths
    behind the nearest one: steep sides are seen, but so is the far side of what is thinner.
    """
    cells = max(3, int(np.sqrt(len(points)) / 4))  # along a side of the picture
    # 1. Two axes across the line of sight; `across` is each point's place in the picture.
    right = np.cross(towards, np.eye(3)[np.abs(towards).argmin()])
    right /= np.linalg.norm(right)
    across = points @ np.stack([right, np.cross(towards, right)], axis=1)
    across -= across.min(axis=0)
    # 2. The cell of each point, and how near it is to the viewer.
    width = max(across.max() / cells, np.finfo(float).tiny)
    column, row = np.minimum((across / width).astype(np.int64), cells - 1).T
    cell, nearness = column * cells + row, points @ towards
    # 3. The nearest point in each cell, and the points not far behind it.
    nearest = np.full(cells * cells, -np.inf)
    np.maximum.at(nearest, cell, nearness)
    return nearness >= nearest[cell] - 2 * width


def _direction(elevation: float, generator: np.random.Generator) -> np.ndarray:
    """A unit vector [3] at this elevation in radians, in a random compass direction."""
    (level, up), (x, y) = _unit_circle(elevation), _unit_circle(generator.uniform(0, 2 * np.pi))
    return np.array([level * x, level * y, up])


def _unit_circle(angle: float) -> tuple[float, float]:
    """The cosine and the sine of an angle in radians."""
    return float(np.cos(angle)), float(np.sin(angle))
