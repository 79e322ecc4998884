"""The outcome of decoding: the tokens, and the record of what they took."""

import time
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch


@dataclass(frozen=True, kw_only=True)
class Record:
    """Steps, tokens and seconds that decoding took. Records of several batches add up."""

    new_tokens: int = 0
    """Tokens generated, end tokens included."""
    target_steps: int = 0
    """Steps of the target, counted for every sequence that took part."""
    tested: int = 0
    """Draft tokens whose turn came: those accepted and the first one rejected."""
    accepted: int = 0
    """Draft tokens that became output."""
    draft_s: float = 0.0
    """Seconds of the draft's forward passes and sampling."""
    target_s: float = 0.0
    """Seconds of the target's forward passes."""
    verify_s: float = 0.0
    """Seconds of verification, until the host has its outcome."""
    rest_s: float = 0.0
    """Seconds of everything else."""

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
    """The generated tokens, and what they took."""

    tokens: list[list[int]]
    """The new tokens of every sequence, its end token included."""
    record: Record


Phase = Literal["draft", "target", "verify", "rest"]


class Phases:
    """Measures the seconds of every phase: a mark says what the time since the last mark was for.

    On CUDA the marks are events on the current stream. Nothing waits for them, and a phase gets the
    time that the device worked on it or was idle before it.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._marks: list[tuple[Phase, float | torch.cuda.Event]] = []
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
        if self._on_cuda:
            torch.cuda.synchronize()
        totals: dict[Phase, float] = {"draft": 0.0, "target": 0.0, "verify": 0.0, "rest": 0.0}
        for (_, start), (phase, end) in zip(self._marks, self._marks[1:], strict=False):
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
