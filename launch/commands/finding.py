"""A line of the doctor's: one thing that is here and works, or not. Standard library only."""

from dataclasses import dataclass

INSTALL = "python -m pip install -c constraints.txt -e '.[mpi,test]'"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is here and works, or not."""

    name: str
    works: bool
    found: str
    """What is here."""
    needed_for: str
    """What does not work, or not as well, without it."""
    command: str = ""
    """Mends it; empty where nothing can."""
    required: bool = False
    """Whether everything needs it."""

    def __str__(self) -> str:
        if self.works:
            return f"ok   {self.name}: {self.found}"
        mark = "BAD " if self.required else "-   "
        return f"{mark} {self.name}: {self.found}; needed for {self.needed_for}" + (
            f"; {self.command}" if self.command else ""
        )
