"""What the doctor finds, one thing at a time. Only the standard library is imported here."""

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
            f"; {self.command}" if self.command else ""
        )
