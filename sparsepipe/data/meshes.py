"""Triangle meshes: points drawn uniformly from their surface, polygons cut into triangles.

`sparsepipe.data.mesh_files` reads them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparsepipe.data.cloud import check_finite
from systems.schema import InputError


@dataclass(frozen=True, eq=False)
class Mesh:
    """Vertices float64 [V, 3] and triangles int64 [T, 3] of rows of them; T = 0 is a point set.

    Raises InputError if there are no vertices, one is not finite, or a triangle names no vertex.
    """

    vertices: np.ndarray
    triangles: np.ndarray

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
        """Points and unit normals, both float64 [count, 3], uniform over the area.

        Normals follow the order of a triangle's corners. A mesh without area gives vertices: all
        of them, or `count` at random if there are more; their normals are 0.
        """
        ends, normals = self._surface
        if len(ends) == 0 or ends[-1] == 0:
            rows = generator.permutation(len(self.vertices))[:count]
            return self.vertices[rows], np.zeros((len(rows), 3))
        # No triangle of area 0 can be chosen: it ends where the one before it does.
        chosen = np.searchsorted(ends, generator.random(count) * ends[-1], side="right")
        corners = self.vertices[self.triangles[chosen]]
        # (1 - sqrt(r), sqrt(r) (1 - s), sqrt(r) s) are uniform barycentric coordinates.
        root, s = np.sqrt(generator.random(count)), generator.random(count)
        weights = np.stack([1 - root, root * (1 - s), root * s], axis=1)
        return (weights[:, :, None] * corners).sum(axis=1), normals[chosen]

    def area(self) -> float:
        """The surface, in squares of the vertices' unit."""
        return float(self._surface[0][-1]) if len(self.triangles) else 0.0

    @cached_property
    def _surface(self) -> tuple[np.ndarray, np.ndarray]:
        """Areas summed up to each triangle [T], and unit normals [T, 3] (0 without area)."""
        first, second, third = self.vertices[self.triangles].transpose(1, 0, 2)
        normals = np.cross(second - first, third - first)
        lengths = np.linalg.norm(normals, axis=1)
        normals /= np.where(lengths > 0, lengths, 1)[:, None]
        return np.cumsum(lengths / 2), normals


def triangulate(corners: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Triangles int64 [T, 3] of polygons, each a fan about its first corner.

    Right for convex polygons; a polygon of fewer than three corners has no area and gives none.

    Args:
        corners: int64 [sum of counts], the polygons' corners one after the other.
        counts: int64 [P], the corners of each polygon.
    """
    triangles = np.maximum(counts - 2, 0)
    first = np.repeat(np.cumsum(counts) - counts, triangles)
    step = np.arange(len(first)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    return corners[np.stack([first, first + step + 1, first + step + 2], axis=1)]
