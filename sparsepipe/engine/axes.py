"""Numbers along the axes of a grid: sizes, strides and dilations.

They are one number where all axes have the same, as in most networks, and a tuple otherwise: a
stride of 2 is 2, and one of (2, 2, 1) leaves the third axis as it is.
"""

from collections.abc import Iterable
from operator import index
from typing import Any

from systems.schema import InputError

Axes = int | tuple[int, ...]
"""One number for all axes, or one for each of (x, y, z), or (x, y, z, t)."""


def axes(value: Any, name: str = "size") -> Axes:
    """Numbers as `Axes`, from one number, or from a list, array or tensor of numbers; equal ones
    become one. `name` says in errors what they are.

    Raises:
        InputError: these are not whole numbers.
    """
    if type(value) is int:  # by far the most
        return value
    try:
        if not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
            return index(value)
        numbers = tuple(index(number) for number in value)
    except TypeError:
        numbers = ()
    if not numbers:
        raise InputError(f"{name} {value!r}: give a whole number, or one for each axis")
    return numbers[0] if len(set(numbers)) == 1 else numbers


def each(value: Axes, dimension: int, name: str = "size") -> tuple[int, ...]:
    """The number of every axis.

    Raises:
        InputError: there are numbers for more or fewer axes than `dimension`.
    """
    if isinstance(value, int):
        return (value,) * dimension
    if len(value) != dimension:
        raise InputError(
            f"{name} {value} for voxels of {dimension} axes: give one number, or one for each axis"
        )
    return value


def times(one: Axes, other: Axes) -> Axes:
    """The products, axis by axis."""
    if isinstance(one, int) and isinstance(other, int):
        return one * other
    dimension = len(one) if isinstance(one, tuple) else len(other)  # type: ignore[arg-type]
    return axes(a * b for a, b in zip(each(one, dimension), each(other, dimension), strict=True))


def quotient(whole: Axes, part: Axes) -> Axes | None:
    """The quotients, axis by axis, or None where one number does not divide the other."""
    if isinstance(whole, int) and isinstance(part, int):
        return whole // part if part and whole % part == 0 else None
    dimension = len(whole) if isinstance(whole, tuple) else len(part)  # type: ignore[arg-type]
    pairs = list(zip(each(whole, dimension), each(part, dimension), strict=True))
    if any(not b or a % b for a, b in pairs):
        return None
    return axes(a // b for a, b in pairs)


def least(value: Axes) -> int:
    """The smallest of the numbers."""
    return value if isinstance(value, int) else min(value)
