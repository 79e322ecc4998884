"""Drafts without a draft model: what followed the last tokens where they stood before.

Texts repeat themselves and what they were asked about: code, summaries, edits, answers with
quotations. If the last tokens stand earlier in the text, those that followed there are a draft that
costs nothing. Such tokens were not sampled, so all of their draft distribution's mass is on them:
exact verification accepts one with the target's own probability, and takes another one otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """Takes drafts from the text so far, or from what an encoder has read.

        speculative.generate(target, speculative.Lookup(), inputs)

    Raises:
        InputError: a length is below 1, or the shortest above the longest.
    """

    longest: int = 3
    """So many last tokens are looked for first."""
    shortest: int = 1
    """Then fewer, down to so many."""

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise InputError(
                f"Lookup(longest={self.longest}, shortest={self.shortest}): give 1 or more for "
                "both, and the longest not below the shortest"
            )

    def propose(self, text: Sequence[int], count: int, source: Sequence[int] = ()) -> list[int]:
        """At most `count` tokens that may follow a text; none if its end is new.

        Args:
            text: the prompt and the tokens after it.
            source: other tokens, which are looked through after the text.
        """
        for length in range(min(self.longest, len(text)), self.shortest - 1, -1):
            end = list(text[-length:])
            for place in (text, source):
                found = _last(place, end)
                if found is not None:
                    return list(place[found : found + count])
        return []


def _last(text: Sequence[int], end: list[int]) -> int | None:
    """The place after the last tokens of `text` that equal `end` and are followed by a token."""
    size = len(end)
    for start in range(len(text) - size - 1, -1, -1):
        if text[start] == end[0] and list(text[start : start + size]) == end:
            return start + size
    return None
