"""Curved surfaces that can be sampled uniformly: the same expected number of points everywhere.

A surface is a set of patches, each a smooth map of the unit square into space. Points are drawn by
rejection: a candidate (patch, u, v) stays with a probability in proportion to the area element
|dp/du x dp/dv|, which also gives the normal. Nothing about a surface but its maps must be known.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# u and v float64 [n] to points float64 [n, 3]; smooth a little beyond the unit square, too.
Patch = Callable[[np.ndarray, np.ndarray], np.ndarray]
# A parameter float64 [n] to a pair of float64 [n]: radius and height.
Profile = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# A parameter float64 [n] to points and tangents, both float64 [n, 3].
Curve = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

DIFFERENCE = 1e-7  # of u and v: derivatives are then right to about 1e-6
GRID = (49, 17)  # steps of u and v where the largest area element is looked for
MARGIN = 1.05  # the largest area element over the largest one on the grid


@dataclass(frozen=True)
class Surface:
    """The union of patches, which should meet at their borders only."""

    patches: tuple[Patch, ...]

    def sample(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Points and unit normals, both float64 [count, 3], uniform over the area."""
        elements = np.stack([area_element(patch, *grid())[1] for patch in self.patches])
        elements = np.linalg.norm(elements, axis=2)
        peak = MARGIN * elements.max()
        accepted = 0.9 * elements.mean() / peak
        found: list[tuple[np.ndarray, np.ndarray]] = []
        missing = count
        while missing > 0 or not found:
            points, normals, element = self._candidates(int(missing / accepted) + 16, generator)
            stays = np.flatnonzero(generator.uniform(0, peak, len(element)) < element)[:missing]
            found.append((points[stays], normals[stays] / element[stays, None]))
            missing -= len(stays)
        points, normals = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return points, normals

    def _candidates(
        self, count: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        u, v = generator.random((2, count))
        points, normals = np.empty((2, count, 3))
        which = generator.integers(len(self.patches), size=count)
        for number, patch in enumerate(self.patches):
            rows = np.flatnonzero(which == number)
            points[rows], normals[rows] = area_element(patch, u[rows], v[rows])
        return points, normals, np.linalg.norm(normals, axis=1)


def grid() -> tuple[np.ndarray, np.ndarray]:
    """u and v of a regular grid over a patch, float64 [n] each."""
    u, v = np.meshgrid(*(np.linspace(0, 1, steps) for steps in GRID))
    return u.ravel(), v.ravel()


def area_element(patch: Patch, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and dp/du x dp/dv there, both float64 [n, 3]; its length is the area element."""
    h = DIFFERENCE
    places = patch(np.concatenate([u, u + h, u]), np.concatenate([v, v, v + h]))
    points, along_u, along_v = places.reshape(3, len(u), 3)
    return points, _cross((along_u - points) / h, (along_v - points) / h)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """np.cross for [n, 3], several times faster."""
    (ax, ay, az), (bx, by, bz) = a.T, b.T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)


def revolved(profile: Profile) -> Patch:
    """The profile turned about the z axis."""

    def patch(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        radius, height = profile(v)
        angle = 2 * np.pi * u
        return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)

    return patch


def disc(radius: float, height: float) -> Patch:
    """A flat disc about the z axis at z = height."""
    return revolved(lambda v: (radius * v, np.full_like(v, height)))


def tube(curve: Curve, radius: float) -> Patch:
    """A round tube about a curve, which must be nowhere parallel to z. Its ends are open."""

    def patch(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        centre, tangent = curve(u)
        tangent = tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
        across = np.stack([tangent[:, 1], -tangent[:, 0], np.zeros_like(u)], axis=1)
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        angle = 2 * np.pi * v[:, None]
        return centre + radius * (np.cos(angle) * across + np.sin(angle) * _cross(tangent, across))

    return patch


def parallelogram(corner: tuple[float, ...], *edges: tuple[float, ...]) -> Patch:
    """The flat patch with this corner and these two edges from it."""
    start, first, second = map(np.asarray, (corner, *edges))
    return lambda u, v: start + u[:, None] * first + v[:, None] * second


def triangle(*corners: tuple[float, ...]) -> Patch:
    """The flat triangle with these three corners."""
    a, b, c = map(np.asarray, corners)
    return lambda u, v: a + u[:, None] * (b - a) + (u * v)[:, None] * (c - b)
