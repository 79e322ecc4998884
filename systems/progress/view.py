"""What the live table shows of a run at one moment."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One rank, as a line of the table."""

    name: str
    role: str
    step: int | None
    """The last step that the rank has finished."""
    step_s: float | None
    """The median time of its last steps in seconds; the dilation of an emulation is undone."""
    state: str
    """starting, running, done, or how long it has done no step."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A run at one moment. What is not known, or not yet, is None."""

    title: str
    rows: Sequence[Row]
    step: int | None = None
    """The last step that all ranks have finished."""
    last: int | None = None
    """The last step of the run."""
    samples_per_s: float | None = None
    loss: float | None = None
    """The mean loss of that step over all samples."""
    left_s: float | None = None
