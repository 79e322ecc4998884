"""What a published paper claims, and which of our claims answer it."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from systems.figures.claims import Claim


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A quantity that was found here, and what it means."""

    quantity: str
    """The quantity in the ids of our claims; `*` stands for any text."""
    sentence: str
    """What the quantity is, for readers who see nothing but this sentence and its values."""

    def claims(self, claims: Iterable[Claim]) -> list[Claim]:
        """Choose those of `claims` that are of this quantity, in their order."""
        return [claim for claim in claims if fnmatchcase(claim.quantity, self.quantity)]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One sentence of a paper's claim."""

    text: str
    """The sentence, with the paper's numbers and setting."""
    answers: tuple[Answer, ...]
    """What answers it: the first one with claims stands on the report's first screen."""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """The paper that a system implements."""

    title: str
    arxiv: str
    """Its number, such as 1812.10624."""
    idea: str
    """The idea, in one sentence."""
    figure: str
    """The name of the figure that shows best what was found, such as "scale-speedup"."""
    statements: tuple[Statement, ...]

    def sentence(self, quantity: str) -> str | None:
        """Return the sentence that explains a quantity of our claims; None where it answers no
        statement."""
        answers = (answer for statement in self.statements for answer in statement.answers)
        matching = (a.sentence for a in answers if fnmatchcase(quantity, a.quantity))
        return next(matching, None)
