"""Where the time of decoding goes: draft, target, verify and the rest."""

import time
from typing import Any, Literal

import torch

Phase = Literal["draft", "target", "verify", "rest"]
PHASES: tuple[Phase, ...] = ("draft", "target", "verify", "rest")


class Phases:
    """Seconds per phase: time since the last mark belongs to the phase that is marked.

    On CUDA the marks are events on the current stream: nothing waits for them, and a phase has the
    time that the device was at it, or idle before it.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._marks: list[tuple[Phase, float | torch.cuda.Event]] = []
        self.mark("rest")

    def mark(self, phase: Phase) -> None:
        """What was done since the last mark was this phase's."""
        if self._on_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((phase, event))
        else:
            self._marks.append((phase, time.perf_counter()))

    def seconds(self) -> dict[Phase, float]:
        """Total of every phase. Waits for the device."""
        if self._on_cuda:
            torch.cuda.synchronize()
        totals = dict.fromkeys(PHASES, 0.0)
        for (_, start), (phase, end) in zip(self._marks, self._marks[1:], strict=False):
            totals[phase] += _between(start, end)
        return totals


def _between(start: Any, end: Any) -> float:
    return float(end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3)
