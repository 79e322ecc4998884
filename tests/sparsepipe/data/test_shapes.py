"""Generated surfaces: equations that points must obey, and densities against areas."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from sparsepipe.data import shapes
from sparsepipe.data.surfaces import MARGIN, Surface, area_element, grid

XYZ = tuple[np.ndarray, np.ndarray, np.ndarray]


def cylinder_distance(p: XYZ, radius: float) -> np.ndarray:
    r, z = np.hypot(p[0], p[1]), np.abs(p[2])
    return np.maximum(r / radius, z) - 1


def dumbbell_distance(p: XYZ, radius: float, bar: float) -> np.ndarray:
    x, r = np.abs(p[0]), np.hypot(p[1], p[2])
    to_end, to_bar = np.hypot(x - 1, r) - radius, r - bar
    return np.where(x < 1 - math.sqrt(radius**2 - bar**2), to_bar, to_end)


def curve_distance(p: XYZ, curve: Callable[[np.ndarray], np.ndarray], stop: float) -> np.ndarray:
    t = np.linspace(0, stop, 8001)
    gaps = np.linalg.norm(np.stack(p, axis=1)[:, None] - curve(t)[None], axis=2)
    return gaps.min(axis=1)


def helix_curve(t: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(t), np.sin(t), 2 * t / (6 * np.pi)], axis=1)


def knot(t: np.ndarray) -> np.ndarray:
    x, y = np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t)
    return np.stack([x, y, -np.sin(3 * t)], axis=1)


def moebius_residual(p: XYZ) -> np.ndarray:
    x, y, z = p
    return -y + x**2 * y + y**3 - 2 * x * z - 2 * x**2 * z - 2 * y**2 * z + y * z**2


# One surface of each class, with a function of its points that must be 0.
SURFACES: dict[str, tuple[Surface, Callable[[XYZ], np.ndarray]]] = {
    "sphere": (shapes.sphere(), lambda p: p[0] ** 2 + p[1] ** 2 + p[2] ** 2 - 1),
    "ellipsoid": (
        shapes.ellipsoid(0.5, 0.4),
        lambda p: p[0] ** 2 + (p[1] / 0.5) ** 2 + (p[2] / 0.4) ** 2 - 1,
    ),
    "torus": (shapes.torus(0.3), lambda p: (np.hypot(p[0], p[1]) - 1) ** 2 + p[2] ** 2 - 0.09),
    "box": (
        shapes.box(0.5, 0.8),
        lambda p: np.abs(np.stack(p) / np.array([[1], [0.5], [0.8]])).max(axis=0) - 1,
    ),
    "cylinder": (shapes.cylinder(0.4), lambda p: cylinder_distance(p, 0.4)),
    "cone": (shapes.cone(0.6), lambda p: np.minimum(p[2], 0.6 * (1 - p[2]) - np.hypot(p[0], p[1]))),
    "pyramid": (
        shapes.pyramid(0.6),
        lambda p: np.minimum(p[2], 0.6 * (1 - p[2]) - np.maximum(abs(p[0]), abs(p[1]))),
    ),
    "helix": (shapes.helix(3, 2, 0.1), lambda p: curve_distance(p, helix_curve, 6 * np.pi) - 0.1),
    "trefoil": (shapes.trefoil(0.3), lambda p: curve_distance(p, knot, 2 * np.pi) - 0.3),
    "moebius": (shapes.moebius(0.4), moebius_residual),
    "dumbbell": (shapes.dumbbell(0.5, 0.15), lambda p: dumbbell_distance(p, 0.5, 0.15)),
    "saddle": (shapes.saddle(0.6), lambda p: p[2] - 0.6 * (p[0] ** 2 - p[1] ** 2)),
}


def test_every_class_is_here() -> None:
    assert set(SURFACES) == set(shapes.CLASSES)
    assert len(shapes.CLASSES) >= 10


@pytest.mark.parametrize("name", SURFACES)
def test_points_lie_on_their_surface(name: str) -> None:
    surface, residual = SURFACES[name]
    points, normals = surface.sample(300, np.random.default_rng(0))
    assert points.shape == normals.shape == (300, 3)
    x, y, z = points.T
    # The curves are compared with a polyline of steps of 0.003, the others exactly.
    assert np.abs(residual((x, y, z))).max() < (1e-5 if name in ("helix", "trefoil") else 1e-12)


@pytest.mark.parametrize("name", sorted(set(SURFACES) - {"helix", "trefoil"}))
def test_normals_are_unit_and_point_along_the_gradient(name: str) -> None:
    surface, residual = SURFACES[name]
    points, normals = surface.sample(300, np.random.default_rng(1))
    assert np.linalg.norm(normals, axis=1) == pytest.approx(1)
    steps = 1e-6 * np.eye(3)
    gradient = np.stack(
        [(residual(tuple((points + s).T)) - residual(tuple((points - s).T))) / 2e-6 for s in steps],
        axis=1,
    )
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    aligned = np.abs((gradient * normals).sum(axis=1))
    # Next to an edge, differences step over it.
    assert np.median(aligned) == pytest.approx(1, abs=1e-6)
    assert (aligned > 1 - 1e-4).mean() > 0.98


def expected_shares(surface: Surface, edges: list[np.ndarray]) -> np.ndarray:
    """Shares of the area in boxes of space, of many small triangles."""
    steps = 300
    line = np.linspace(0, 1, steps + 1)
    u, v = (axis.ravel() for axis in np.meshgrid(line, line, indexing="ij"))
    histogram = np.zeros([len(e) - 1 for e in edges])
    for patch in surface.patches:
        p = patch(u, v).reshape(steps + 1, steps + 1, 3)
        a, b, c, d = p[:-1, :-1], p[1:, :-1], p[:-1, 1:], p[1:, 1:]
        for first, second, third in ((a, b, c), (d, c, b)):
            area = np.linalg.norm(np.cross(second - first, third - first), axis=2).ravel()
            centre = ((first + second + third) / 3).reshape(-1, 3)
            histogram += np.histogramdd(centre, edges, weights=area)[0]
    return histogram.ravel() / histogram.sum()


@pytest.mark.parametrize("name", SURFACES)
def test_density_is_uniform(name: str) -> None:
    surface, _ = SURFACES[name]
    count = 20_000
    points, _ = surface.sample(count, np.random.default_rng(2))
    low, high = points.min(axis=0) - 0.1, points.max(axis=0) + 0.1
    # Odd numbers of cells and unequal widths: no face or axis lies on a border.
    edges = [np.linspace(a, b + 0.0123, 6) for a, b in zip(low, high, strict=True)]
    shares = expected_shares(surface, edges)
    seen = np.histogramdd(points, edges)[0].ravel()
    # Triangles cut corners, so that a few points may lie in a box that none of them reaches.
    assert seen[shares == 0].sum() <= count / 1000
    used = shares * count >= 8
    expected = count * shares[used]
    chi_square = ((seen[used] - expected) ** 2 / expected).sum()
    freedom = used.sum() - 1
    # Beyond 5 standard deviations of a chi-square.
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def test_torus_against_its_area_element() -> None:
    """Inner and outer half of a torus: 1 / 2 -+ r / (pi R) of its area."""
    points, _ = shapes.torus(0.4).sample(50_000, np.random.default_rng(3))
    outer = (np.hypot(points[:, 0], points[:, 1]) > 1).mean()
    assert outer == pytest.approx(0.5 + 0.4 / math.pi, abs=5 * 0.5 / math.sqrt(50_000))


@pytest.mark.parametrize("name", shapes.CLASSES)
def test_seeds_repeat_and_proportions_vary(name: str) -> None:
    first, again, other = (
        shapes.sample(name, 64, np.random.default_rng(seed))[0] for seed in (5, 5, 6)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.isfinite(first).all()


@pytest.mark.parametrize("name", shapes.CLASSES)
def test_the_largest_area_element_is_found(name: str) -> None:
    """Rejection is right only if no candidate's area element is larger than what is assumed."""
    generator = np.random.default_rng(4)
    for _ in range(10):
        for patch in shapes.CLASSES[name](generator).patches:
            assumed, drawn = (
                np.linalg.norm(area_element(patch, u, v)[1], axis=1).max()
                for u, v in (grid(), generator.random((2, 4000)))
            )
            assert drawn < MARGIN * assumed


def test_any_number_of_points() -> None:
    for count in (0, 1, 7, 5000):
        points, normals = shapes.cone(0.5).sample(count, np.random.default_rng(0))
        assert points.shape == normals.shape == (count, 3)
