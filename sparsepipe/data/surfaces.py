"""Curved surfaces that can be sampled uniformly: the same expected number of points everywhere.

A surface is a set of patches. A patch is a smooth map p from the unit square into space, which
bends and stretches the square:

    v                               y
    1 +-----+                       |   .----.
      |  #  |   (x, y, z) = p(u, v) |  (   ## )
      |     |   ------------------> |   `.___'
    0 +-----+                       |
      0     1 u                     +----------- x

The small square at (u, v) becomes a small parallelogram of area |dp/du x dp/dv| du dv. That factor,
the area element, tells how many points belong there, and the vector inside it is the normal. Points
are drawn by rejection: a candidate (patch, u, v) is kept with a probability in proportion to its
area element. Nothing must be known of a patch but the map.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Patch = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A map from u and v, float64 [n] each, to points, float64 [n, 3]. It must also be smooth a little
beyond the unit square."""
Profile = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A map from a parameter, float64 [n], to radius and height, float64 [n] each."""
Curve = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A map from a parameter, float64 [n], to points and tangents, both float64 [n, 3]."""

DIFFERENCE = 1e-7
"""The step of u and v by which derivatives are taken; they are then right to about 1e-6."""
GRID = (49, 17)
"""How many values of u and of v are tried to find the largest area element."""
MARGIN = 1.05
"""How many times larger an area element may be than the largest one on the grid."""


@dataclass(frozen=True)
class Surface:
    """A union of patches, which should meet at their borders only."""

    patches: tuple[Patch, ...]

    def sample(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw points from the surface, uniformly over its area.

        Returns:
            Points and unit normals, both float64 [count, 3].
        """
        elements = np.stack([area_element(patch, *grid())[1] for patch in self.patches])
        elements = np.linalg.norm(elements, axis=2)
        peak = MARGIN * elements.max()
        accepted = 0.9 * elements.mean() / peak  # the share of candidates that will be kept
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        missing = count
        while missing > 0 or not parts:
            points, normals, element = self._candidates(int(missing / accepted) + 16, generator)
            stays = np.flatnonzero(generator.uniform(0, peak, len(element)) < element)[:missing]
            parts.append((points[stays], normals[stays] / element[stays, None]))
            missing -= len(stays)
        points, normals = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return points, normals

    def _candidates(
        self, count: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw `count` points that are uniform over the unit squares of the patches, not yet over
        the surface; the rejection that follows makes them so.

        Returns:
            The points [count, 3], their normals [count, 3] and the area elements [count]. The
            length of a normal is the area element.
        """
        u, v = generator.random((2, count))
        points, normals = np.empty((2, count, 3))
        which = generator.integers(len(self.patches), size=count)
        for number, patch in enumerate(self.patches):
            rows = np.flatnonzero(which == number)
            points[rows], normals[rows] = area_element(patch, u[rows], v[rows])
        return points, normals, np.linalg.norm(normals, axis=1)


def grid() -> tuple[np.ndarray, np.ndarray]:
    """A regular grid over the unit square: u and v, float64 [n] each."""
    u, v = np.meshgrid(*(np.linspace(0, 1, steps) for steps in GRID))
    return u.ravel(), v.ravel()


def area_element(patch: Patch, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points of a patch at (u, v), float64 [n, 3], and the vectors dp/du x dp/dv there, float64
    [n, 3]. The length of a vector is the area element."""
    h = DIFFERENCE
    places = patch(np.concatenate([u, u + h, u]), np.concatenate([v, v, v + h]))
    points, along_u, along_v = places.reshape(3, len(u), 3)
    return points, _cross((along_u - points) / h, (along_v - points) / h)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cross products of the rows of two arrays [n, 3]. It is several times faster than
    np.cross."""
    (ax, ay, az), (bx, by, bz) = a.T, b.T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)


def revolved(profile: Profile) -> Patch:
    """The surface that a profile sweeps when it is turned about the z axis."""

    def patch(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The profile's point v, turned by u of a full turn."""
        radius, height = profile(v)
        angle = 2 * np.pi * u
        return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)

    return patch


def disc(radius: float, height: float) -> Patch:
    """A flat disc about the z axis at z = height."""
    return revolved(lambda v: (radius * v, np.full_like(v, height)))


def tube(curve: Curve, radius: float) -> Patch:
    """A round tube about a curve, which must not be parallel to z anywhere. The tube's ends are
    open."""

    def patch(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The point at v of a full turn on the circle about the curve's point u."""
        centre, tangent = curve(u)
        tangent = tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
        across = np.stack([tangent[:, 1], -tangent[:, 0], np.zeros_like(u)], axis=1)
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        angle = 2 * np.pi * v[:, None]
        return centre + radius * (np.cos(angle) * across + np.sin(angle) * _cross(tangent, across))

    return patch


def parallelogram(corner: tuple[float, ...], *edges: tuple[float, ...]) -> Patch:
    """The flat patch that has one corner at `corner` and two `edges` that start there."""
    start, first, second = map(np.asarray, (corner, *edges))
    return lambda u, v: start + u[:, None] * first + v[:, None] * second


def triangle(*corners: tuple[float, ...]) -> Patch:
    """The flat triangle that has these three corners."""
    a, b, c = map(np.asarray, corners)
    return lambda u, v: a + u[:, None] * (b - a) + (u * v)[:, None] * (c - b)
