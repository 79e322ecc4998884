"""What `launch reproduce` runs: an experiment is a sweep of runs, its figures and its claims."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from systems.clusters.cluster import Cluster
from systems.figures.claims import Claim
from systems.runs.record import Tier

Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""Case name -> the results of its repetitions, in order; `record` in each is its folder."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One point of a sweep; `options` are the system's own."""

    name: str
    options: Any
    nodes: int | None = None
    """Of the emulated cluster. None: the experiment's world size."""
    cluster: Cluster | None = None
    """What an emulated case runs on. None: the experiment's cluster."""
    level: Literal["quick", "full"] = "quick"
    """The least level at which it is run."""
    trace: bool = False
    """Whether an emulated run leaves a trace of its steps."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawn figure: `path` is the PNG; a PDF and the CSV it was drawn from lie beside it."""

    path: Path
    title: str
    tier: Tier
    caption: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A quantity that was predicted, and what a run then found."""

    what: str
    predicted: float
    predicted_by: Literal["planner", "simulator"]
    found: float
    """The median of n values."""
    unit: str
    tier: Tier
    """Of what was found."""
    n: int

    @property
    def ratio(self) -> float:
        """Found over predicted."""
        return self.found / self.predicted


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an experiment showed."""

    figures: tuple[Figure, ...]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...] = ()
    """Sentences and tables (Markdown) for the report."""
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A sweep and what it shows.

    It has cases, which the launcher runs, or a `measure` that runs here; or neither. Then, or where
    nothing can be emulated, nothing is run and `conclude` gets no results.
    """

    id: str
    title: str
    tier: Tier
    system: str
    """Whose it is, by the launcher's name."""
    world_size: int = 1
    cluster: str = "local"
    """What emulated cases run on."""
    cases: tuple[Case, ...] = ()
    repeats: Mapping[str, int] = field(default_factory=lambda: {"quick": 1, "full": 1})
    """Repetitions by level; each has its own seed, and cases alternate within a repetition."""
    measure: Callable[[str, Path], Results] | None = None
    """Measures at a level, in this process; keeps what it finds in a folder, and goes on there."""
    conclude: Callable[[Results, Path], Outcome]
    """Draws into a folder and judges."""
