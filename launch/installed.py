"""Finds the systems that are installed, built-in ones and others alike.

A package offers a system by an entry point of the group `systems_testbed.systems`:

    [project.entry-points."systems_testbed.systems"]
    ring = "ring.system:SYSTEM"

Their names are read from the metadata of the installed packages. A system's own code is imported
when it is asked for, so that a run imports no other system than its own.
"""

import dataclasses
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from launch.ownership import BUILT_IN
from systems import by_path
from systems.job import Job
from systems.schema import InputError, remedy
from systems.system import System

GROUP = "systems_testbed.systems"
"""The group of entry points by which packages offer systems."""
DEFAULT = next(iter(BUILT_IN))
"""The system that runs where a user names none."""


@cache
def offered() -> dict[str, tuple[str, ...]]:
    """The entry points of all systems that are installed, by the names of the systems: the built-in
    ones first, then the others in alphabetical order. A name should have one; see `system`."""
    by_name: dict[str, dict[str, None]] = {name: {value: None} for name, value in BUILT_IN.items()}
    for point in sorted(_entry_points(), key=lambda point: (point.name, point.value)):
        by_name.setdefault(point.name, {})[point.value] = None
    return {name: tuple(values) for name, values in by_name.items()}


def _entry_points() -> Sequence[EntryPoint]:
    """The entry points in the metadata of the installed packages."""
    return tuple(entry_points(group=GROUP))


def names() -> list[str]:
    """The names of all systems that are installed."""
    return list(offered())


@cache
def system(name: str) -> System:
    """The system of a name.

    Raises:
        InputError: none of this name is installed, several are, or it cannot be imported.
    """
    points = offered().get(name, ())
    if not points:
        installed = ", ".join(names())
        close = remedy(name, names())
        hint = close if close.startswith("perhaps") else "install the package that offers it"
        raise InputError(f"--system {name!r}: {hint}; installed: {installed}")
    if len(points) > 1:
        raise InputError(
            f"--system {name}: several installed packages offer a system of this name: "
            f"{' and '.join(points)}; uninstall one of them"
        )
    loaded = by_path.load(points[0], f"--system {name}: its entry point")
    if not isinstance(loaded, System):
        raise InputError(
            f"--system {name}: its entry point {points[0]} is a {type(loaded).__name__}; it must "
            "be a systems.system.System"
        )
    if loaded.name != name:
        raise InputError(
            f"--system {name}: its entry point {points[0]} is a system named {loaded.name}; the "
            "two names must be the same"
        )
    _check_options(loaded)
    return loaded


def _check_options(system: System) -> None:
    """Refuse options that no job can hold, before a job is made of them."""
    where = f"--system {system.name}: the class {system.options.__name__} of its options"
    params = getattr(system.options, "__dataclass_params__", None)
    if params is None or not params.frozen:
        raise InputError(
            f"{where} is no frozen dataclass; add @dataclass(frozen=True, kw_only=True)"
        )
    for field in dataclasses.fields(system.options):
        if field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where} has no default for {field.name}; give it one")


def system_of(job: Job) -> System:
    """The system of a job."""
    return system(job.system)


def all_systems() -> list[System]:
    """Import all systems that are installed, and warn of those that cannot be imported."""
    systems = []
    for name in names():
        try:
            systems.append(system(name))
        except InputError as error:
            print(f"warning: {error}; it is left out", file=sys.stderr)
    return systems
