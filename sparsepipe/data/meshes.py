"""Triangle meshes: drawing points uniformly from their surface, cutting polygons into triangles.

`sparsepipe.data.mesh_files` reads meshes from files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from sparsepipe.data.cloud import check_finite
from systems.schema import InputError


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface of triangles. A mesh without triangles is a set of points.

    Raises:
        InputError: there are no vertices, a vertex is not finite, or a triangle names a vertex that
            is not there.
    """

    vertices: np.ndarray
    """float64 [V, 3], V >= 1: the places of the vertices."""
    triangles: np.ndarray
    """int64 [T, 3]: the rows of `vertices` where the corners of each triangle are."""

    def __post_init__(self) -> None:
        count = len(self.vertices)
        if count == 0:
            raise InputError("no vertices")
        check_finite(self.vertices, "vertex")
        wrong = (self.triangles < 0) | (self.triangles >= count)
        if wrong.any():
            raise InputError(
                f"a face names vertex {self.triangles[wrong][0]}, counted from 0, "
                f"but there are {count:,} vertices"
            )

    def sample(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw points from the surface, uniformly over its area.

        A mesh without area gives its vertices instead, with normals of 0: all of them, or `count`
        of them at random where there are more.

        Returns:
            Points and their unit normals, both float64 [count, 3]. A normal points to the side from
            which the corners of its triangle are seen in counterclockwise order.
        """
        ends, normals = self._surface
        if len(ends) == 0 or ends[-1] == 0:
            rows = generator.permutation(len(self.vertices))[:count]
            return self.vertices[rows], np.zeros((len(rows), 3))
        # 1. Choose triangles in proportion to their areas: throw darts at the areas laid end to
        #    end. A triangle of area 0 is never hit, since it ends where the one before it does.
        chosen = np.searchsorted(ends, generator.random(count) * ends[-1], side="right")
        corners = self.vertices[self.triangles[chosen]]
        # 2. Choose a place in each: (1 - sqrt(r), sqrt(r) (1 - s), sqrt(r) s) are uniform
        #    barycentric coordinates for r and s uniform in [0, 1).
        root, s = np.sqrt(generator.random(count)), generator.random(count)
        weights = np.stack([1 - root, root * (1 - s), root * s], axis=1)
        return (weights[:, :, None] * corners).sum(axis=1), normals[chosen]

    def area(self) -> float:
        """The area of the surface, in squares of the vertices' unit."""
        return float(self._surface[0][-1]) if len(self.triangles) else 0.0

    @cached_property
    def _surface(self) -> tuple[np.ndarray, np.ndarray]:
        """The running sum of the triangles' areas, float64 [T], and the unit normals of the
        triangles, float64 [T, 3] (0 for a triangle without area)."""
        first, second, third = self.vertices[self.triangles].transpose(1, 0, 2)
        normals = np.cross(second - first, third - first)
        lengths = np.linalg.norm(normals, axis=1)
        normals /= np.where(lengths > 0, lengths, 1)[:, None]
        return np.cumsum(lengths / 2), normals


def triangles_of(faces: Sequence[Sequence[float]]) -> np.ndarray:
    """Cut polygons into triangles, each polygon into a fan about its first corner.

    This is right for convex polygons. A polygon of fewer than three corners has no area and gives
    no triangle.

        d---c
        |  /|      the polygon (a, b, c, d) becomes (a, b, c) and (a, c, d)
        | / |
        a---b

    Args:
        faces: for each polygon, the rows of the vertices that are its corners.

    Returns:
        int64 [T, 3], the triangles' corners.

    Raises:
        InputError: a corner is no whole number.
    """
    numbers = np.array(list(chain.from_iterable(faces)), dtype=np.float64)
    if wrong := numbers[~(np.abs(numbers) < 2**53) | (numbers != np.trunc(numbers))].tolist():
        raise InputError(f"a face names vertex {wrong[0]:g}, which is no whole number of a row")
    corners = numbers.astype(np.int64)
    counts = np.array([len(face) for face in faces], dtype=np.int64)
    triangles = np.maximum(counts - 2, 0)  # how many triangles each polygon gives
    first = np.repeat(np.cumsum(counts) - counts, triangles)  # each triangle's polygon's start
    step = np.arange(len(first)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    return corners[np.stack([first, first + step + 1, first + step + 2], axis=1)]
