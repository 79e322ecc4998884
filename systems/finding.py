"""What `testbed doctor` finds, one thing at a time. Only the standard library is imported here: the
doctor must run where packages are missing.
"""

import importlib.metadata
from dataclasses import dataclass

INSTALL = "python -m pip install -c constraints.txt -e '.[mpi,test]'"
"""The command that installs everything."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is here and works, or not."""

    name: str
    works: bool
    found: str
    """What was found, in words."""
    needed_for: str
    """What does not work, or not as well, without it."""
    command: str = ""
    """The command that mends it; empty if none can."""
    required: bool = False
    """Whether nothing works without it."""

    def __str__(self) -> str:
        if self.works:
            return f"ok   {self.name}: {self.found}"
        mark = "BAD " if self.required else "-   "
        return f"{mark} {self.name}: {self.found}; needed for {self.needed_for}" + (
            f"; {self.command}" if self.command and self.command not in self.found else ""
        )


def program(name: str, path: str | None, *, needed_for: str, command: str) -> Finding:
    """Whether a program is installed. `path` is where it was found, if it was."""
    return Finding(
        name=name,
        works=path is not None,
        found=path or "none",
        needed_for=needed_for,
        command=command,
    )


def extra(name: str, extra: str, needed_for: str) -> Finding:
    """Whether an optional distribution is installed.

    Args:
        extra: the testbed's extra that installs it.
    """
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return Finding(
        name=name,
        works=bool(version),
        found=version or "none",
        needed_for=needed_for,
        command=f"python -m pip install 'systems-testbed[{extra}]'",
    )
