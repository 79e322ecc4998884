"""What a published paper claims, and which of our claims answer it."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from systems.figures.claims import Claim


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One sentence of a paper's claim."""

    text: str
    """With the paper's numbers and setting."""
    answered_by: tuple[str, ...]
    """Quantities of our claims; `*` stands for any text."""

    def answers(self, claims: Iterable[Claim]) -> list[Claim]:
        """Those of `claims` that answer the statement, in their order."""
        return [c for c in claims if any(fnmatchcase(c.quantity, q) for q in self.answered_by)]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """The paper that a system implements."""

    title: str
    arxiv: str
    """Its number, such as 1812.10624."""
    idea: str
    """In two sentences."""
    statements: tuple[Statement, ...]
