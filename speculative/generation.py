"""What decoding gives: tokens, and the record of what they took."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Record:
    """What decoding took. Records of several batches add up."""

    new_tokens: int = 0
    """Tokens generated, end tokens included."""
    target_steps: int = 0
    """Steps of the target, counted for every sequence that took part."""
    tested: int = 0
    """Draft tokens whose turn came: those accepted and the first one rejected."""
    accepted: int = 0
    """Draft tokens that became output."""
    draft_s: float = 0.0
    target_s: float = 0.0
    verify_s: float = 0.0
    rest_s: float = 0.0

    @property
    def acceptance_rate(self) -> float | None:
        """Probability that a draft token is accepted when its turn comes. None: no draft."""
        return self.accepted / self.tested if self.tested else None

    @property
    def tokens_per_target_step(self) -> float:
        """Tokens that a sequence gains per forward pass of the target."""
        return self.new_tokens / max(self.target_steps, 1)

    @property
    def total_s(self) -> float:
        """Seconds of all phases."""
        return self.draft_s + self.target_s + self.verify_s + self.rest_s

    def __add__(self, other: "Record") -> "Record":
        names = [f.name for f in fields(self)]
        return Record(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True)
class Generation:
    """What was generated, and what it took."""

    tokens: list[list[int]]
    """New tokens of every sequence, its end token included."""
    record: Record
