"""Twelve classes of generated surfaces, which differ in their form and their proportions alone.

Each class is a function of its proportions, and `CLASSES` draws these at random. Sizes are about 1.
`sparsepipe.data.cloud` decides where a cloud lies, how large it is and which part of it is visible.
"""

from collections.abc import Callable

import numpy as np

from sparsepipe.data.surfaces import Surface, disc, parallelogram, revolved, triangle, tube


def sphere() -> Surface:
    """The sphere x^2 + y^2 + z^2 = 1."""
    return Surface((revolved(lambda v: (np.sin(np.pi * v), np.cos(np.pi * v))),))


def ellipsoid(b: float, c: float) -> Surface:
    """The ellipsoid x^2 + (y / b)^2 + (z / c)^2 = 1."""
    (unit,) = sphere().patches
    return Surface((lambda u, v: unit(u, v) * (1, b, c),))


def torus(tube_radius: float) -> Surface:
    """The torus (sqrt(x^2 + y^2) - 1)^2 + z^2 = tube_radius^2."""

    def profile(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The circle that is turned about the z axis."""
        angle = 2 * np.pi * v
        return 1 + tube_radius * np.cos(angle), tube_radius * np.sin(angle)

    return Surface((revolved(profile),))


def box(b: float, c: float) -> Surface:
    """The surface of the box |x| <= 1, |y| <= b, |z| <= c."""
    x, y, z = (2.0, 0.0, 0.0), (0.0, 2 * b, 0.0), (0.0, 0.0, 2 * c)
    low, high = (-1.0, -b, -c), (1.0, b, c)
    edges = ((x, y), (y, z), (z, x))
    from_low = [parallelogram(low, *pair) for pair in edges]
    from_high = [
        parallelogram(high, (-f[0], -f[1], -f[2]), (-s[0], -s[1], -s[2])) for f, s in edges
    ]
    return Surface((*from_low, *from_high))


def cylinder(radius: float) -> Surface:
    """The surface of the cylinder x^2 + y^2 <= radius^2, |z| <= 1."""
    side = revolved(lambda v: (np.full_like(v, radius), 2 * v - 1))
    return Surface((side, disc(radius, -1), disc(radius, 1)))


def cone(radius: float) -> Surface:
    """The surface of the cone sqrt(x^2 + y^2) <= radius (1 - z), 0 <= z <= 1."""
    return Surface((revolved(lambda v: (radius * (1 - v), v)), disc(radius, 0)))


def pyramid(half_base: float) -> Surface:
    """The surface of the pyramid max(|x|, |y|) <= half_base (1 - z), 0 <= z <= 1."""
    a = half_base
    corners = [(a, a, 0.0), (-a, a, 0.0), (-a, -a, 0.0), (a, -a, 0.0)]
    sides = [triangle((0.0, 0.0, 1.0), corners[i - 1], corners[i]) for i in range(4)]
    return Surface((*sides, parallelogram((-a, -a, 0.0), (2 * a, 0.0, 0.0), (0.0, 2 * a, 0.0))))


def helix(turns: float, height: float, tube_radius: float) -> Surface:
    """A tube about the helix (cos t, sin t, height t / (2 pi turns)), 0 <= t <= 2 pi turns."""

    def curve(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The helix and its tangents for u in [0, 1]."""
        rate = 2 * np.pi * turns
        cos, sin = np.cos(rate * u), np.sin(rate * u)
        tangent = np.stack([-rate * sin, rate * cos, np.full_like(u, height)], axis=1)
        return np.stack([cos, sin, height * u], axis=1), tangent

    return Surface((tube(curve, tube_radius),))


def trefoil(tube_radius: float) -> Surface:
    """A tube about the knot (sin t + 2 sin 2t, cos t - 2 cos 2t, -sin 3t), 0 <= t <= 2 pi."""

    def curve(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The knot and its tangents for u in [0, 1]."""
        cos, sin = np.cos(2 * np.pi * u), np.sin(2 * np.pi * u)
        cos_2, sin_2 = cos * cos - sin * sin, 2 * sin * cos
        cos_3, sin_3 = cos * cos_2 - sin * sin_2, sin * cos_2 + cos * sin_2
        tangent = np.stack([cos + 4 * cos_2, 4 * sin_2 - sin, -3 * cos_3], axis=1)
        return np.stack([sin + 2 * sin_2, cos - 2 * cos_2, -sin_3], axis=1), tangent

    return Surface((tube(curve, tube_radius),))


def moebius(half_width: float) -> Surface:
    """A Moebius strip, which makes half a twist on its way round: r = 1 + w cos(t / 2), z = w sin(t
    / 2), |w| <= half_width."""

    def patch(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The strip, once round for u in [0, 1], across for v."""
        t, w = 2 * np.pi * u, half_width * (2 * v - 1)
        radius = 1 + w * np.cos(t / 2)
        return np.stack([radius * np.cos(t), radius * np.sin(t), w * np.sin(t / 2)], axis=1)

    return Surface((patch,))


def dumbbell(radius: float, bar_radius: float) -> Surface:
    """Two spheres about x = -1 and x = 1, joined by a bar along x."""
    start = np.arcsin(bar_radius / radius)  # where the bar enters a sphere

    def end(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The profile of the sphere about z = 1, without the part inside the bar."""
        angle = start + (np.pi - start) * v
        return radius * np.sin(angle), 1 - radius * np.cos(angle)

    half_bar = 1 - radius * np.cos(start)
    ends = revolved(end), revolved(lambda v: (end(v)[0], -end(v)[1]))
    bar = revolved(lambda v: (np.full_like(v, bar_radius), half_bar * (2 * v - 1)))
    upright = (*ends, bar)
    return Surface(tuple(lambda u, v, p=p: p(u, v)[:, (2, 0, 1)] for p in upright))  # type: ignore[misc]


def saddle(curvature: float) -> Surface:
    """The saddle z = curvature (x^2 - y^2), |x| <= 1, |y| <= 1."""

    def patch(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """The saddle over the square."""
        x, y = 2 * u - 1, 2 * v - 1
        return np.stack([x, y, curvature * (x * x - y * y)], axis=1)

    return Surface((patch,))


CLASSES: dict[str, Callable[[np.random.Generator], Surface]] = {
    "box": lambda g: box(*g.uniform(0.4, 1, 2)),
    "cone": lambda g: cone(g.uniform(0.4, 0.7)),
    "cylinder": lambda g: cylinder(g.uniform(0.3, 0.6)),
    "dumbbell": lambda g: dumbbell(g.uniform(0.4, 0.6), g.uniform(0.1, 0.16)),
    "ellipsoid": lambda g: ellipsoid(*g.uniform(0.35, 0.6, 2)),
    "helix": lambda g: helix(g.uniform(2.5, 4), g.uniform(1.5, 2.5), g.uniform(0.08, 0.15)),
    "moebius": lambda g: moebius(g.uniform(0.3, 0.5)),
    "pyramid": lambda g: pyramid(g.uniform(0.4, 0.7)),
    "saddle": lambda g: saddle(g.uniform(0.4, 0.8)),
    "sphere": lambda g: sphere(),
    "torus": lambda g: torus(g.uniform(0.2, 0.4)),
    "trefoil": lambda g: trefoil(g.uniform(0.25, 0.4)),
}
"""For each class, what makes a surface of random proportions from a random generator. The ranges
are such that no class comes near another one."""


def sample(name: str, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Make one surface of a class and draw points from it.

    Returns:
        Points and unit normals, both float64 [count, 3].
    """
    return CLASSES[name](generator).sample(count, generator)
