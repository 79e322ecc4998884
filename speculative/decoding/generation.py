"""The outcome of decoding: the tokens, and the record of what they took."""

import time
from dataclasses import dataclass, field, fields
from itertools import pairwise, zip_longest
from typing import Any, Literal, Self, get_args

import torch


@dataclass(kw_only=True)
class Statistics:
    """How often draft tokens were accepted. Statistics of several batches add up."""

    new_tokens: int = 0
    """Tokens generated, end tokens included."""
    target_steps: int = 0
    """Steps of the target, counted for every sequence that took part."""
    proposed: int = 0
    """Draft tokens that the draft made."""
    tested_by_position: list[int] = field(default_factory=list)
    """Draft tokens whose turn came, by their place in the step: those accepted and the first one
    rejected. Tokens after the end of a text do not count."""
    accepted_by_position: list[int] = field(default_factory=list)
    """Draft tokens that became output, by their place in the step."""

    @property
    def tested(self) -> int:
        """Draft tokens whose turn came."""
        return sum(self.tested_by_position)

    @property
    def accepted(self) -> int:
        """Draft tokens that became output."""
        return sum(self.accepted_by_position)

    @property
    def acceptance_rate(self) -> float | None:
        """Probability that a draft token is accepted when its turn comes. None: no draft."""
        return self.accepted / self.tested if self.tested else None

    @property
    def acceptance_rate_by_position(self) -> list[float | None]:
        """The same for every place in a step, from the first. None: its turn never came."""
        pairs = zip(self.accepted_by_position, self.tested_by_position, strict=True)
        return [accepted / tested if tested else None for accepted, tested in pairs]

    @property
    def tokens_per_target_step(self) -> float:
        """Tokens that a sequence gains per forward pass of the target."""
        return self.new_tokens / max(self.target_steps, 1)

    def count(self, *, new: int, proposed: int, accepted: int) -> None:
        """Add a step of one sequence: the numbers of its new tokens, of its draft tokens, and of
        those among them that verification accepted."""
        self.new_tokens += new
        self.target_steps += 1
        self.proposed += proposed
        for counts in (self.tested_by_position, self.accepted_by_position):
            counts.extend([0] * (proposed - len(counts)))
        for place in range(min(new, proposed)):
            self.tested_by_position[place] += 1
            self.accepted_by_position[place] += place < accepted

    def __add__(self, other: Self) -> Self:
        names = [f.name for f in fields(self)]
        return type(self)(**{n: _sum(getattr(self, n), getattr(other, n)) for n in names})


@dataclass(kw_only=True)
class Record(Statistics):
    """Statistics, and the seconds that decoding took."""

    draft_s: float = 0.0
    """Seconds of the draft's forward passes and sampling."""
    target_s: float = 0.0
    """Seconds of the target's forward passes."""
    verify_s: float = 0.0
    """Seconds of verification, until the host has its outcome."""
    rest_s: float = 0.0
    """Seconds of everything else."""

    @property
    def total_s(self) -> float:
        """Seconds of all phases."""
        return self.draft_s + self.target_s + self.verify_s + self.rest_s


def _sum(a: Any, b: Any) -> Any:
    """The sum of two numbers, or of two lists place by place."""
    if isinstance(a, list):
        return [x + y for x, y in zip_longest(a, b, fillvalue=0)]
    return a + b


@dataclass(frozen=True)
class Generation:
    """The generated tokens, and what they took."""

    tokens: list[list[int]]
    """The new tokens of every sequence, its end token included."""
    record: Record
    log_probabilities: list[list[float]] | None = None
    """The new tokens' log-probabilities, where they were asked for (`output_log_probabilities` of
    `speculative.decoding.decode.generate`)."""


Phase = Literal["draft", "target", "verify", "rest", "outside"]
"""What decoding spends its time on; `outside` is the time of whoever reads a stream of tokens."""


class Phases:
    """Measures the seconds of every phase: a mark says what the time since the last mark was for.

    On CUDA the marks are events on the current stream. Nothing waits for them, and a phase gets the
    time that the device worked on it or was idle before it.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._marks: list[tuple[Phase, float | torch.cuda.Event]] = []
        self._lap = 0
        self.mark("rest")

    def mark(self, phase: Phase) -> None:
        """Say that the time since the last mark was spent on this phase."""
        if self._on_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((phase, event))
        else:
            self._marks.append((phase, time.perf_counter()))

    def record(self) -> Record:
        """The seconds of every phase, as a record. Waits for the device."""
        return self._between_marks(self._marks)

    def lap(self) -> Record:
        """The same since the last lap, up to the last mark."""
        marks, self._lap = self._marks[self._lap :], len(self._marks) - 1
        return self._between_marks(marks)

    def _between_marks(self, marks: list[tuple[Phase, float | torch.cuda.Event]]) -> Record:
        """The seconds of every phase between some marks."""
        if self._on_cuda:
            torch.cuda.synchronize()
        totals = dict.fromkeys(get_args(Phase), 0.0)
        for (_, start), (phase, end) in pairwise(marks):
            totals[phase] += _between(start, end)
        return Record(
            draft_s=totals["draft"],
            target_s=totals["target"],
            verify_s=totals["verify"],
            rest_s=totals["rest"],
        )


def _between(start: Any, end: Any) -> float:
    """Seconds between two marks, which are readings of the clock or CUDA events."""
    return float(end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3)
