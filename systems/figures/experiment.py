"""What `testbed reproduce` runs: an experiment is a sweep of runs, its figures and its claims.

A launcher runs the cases of a sweep (`sweep`); what needs no launcher is measured in this process
(`measure_once`). Then the experiment concludes: it draws figures (`systems.figures.draw`), judges
claims (`systems.figures.claims`) and writes notes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from systems.clusters.cluster import Cluster
from systems.figures.claims import Claim, slug
from systems.runs import record
from systems.runs.record import Tier

Level = Literal["quick", "full"]
Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""The results of each case's repetitions, in order, by the case's name; `record` in each is its
folder."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One point of a sweep; `options` are the system's own."""

    name: str
    options: Any
    nodes: int | None = None
    """How many nodes of the emulated or shaped cluster; None: the experiment's world size."""
    cluster: Cluster | None = None
    """What an emulated or shaped case runs on; None stands for the experiment's cluster."""
    level: Level = "quick"
    """The least level at which it is run."""
    repeats: int | None = None
    """How many of the experiment's repetitions it takes part in, the first ones; None: all."""
    trace: bool = False
    """Whether an emulated or shaped run leaves a trace of its steps."""


def sweep(
    options: Any, variants: Mapping[str, Mapping[str, Any]], **fields: Any
) -> tuple[Case, ...]:
    """A case for every variant: its name, and the options with the variant's changes.

    Args:
        options: a frozen dataclass, the options that all variants share.
        variants: the options that a variant changes, by the variant's name.
        fields: further fields of the cases, such as `nodes` and `level`.
    """
    return tuple(
        Case(name=name, options=dataclasses.replace(options, **changes), **fields)
        for name, changes in variants.items()
    )


def measure_once(folder: Path, parts: Mapping[str, Callable[[], Any]]) -> Results:
    """Call every function and keep what it returns as JSON in a file of the part's name.

    A part whose file is there, from an earlier run that was interrupted, is read and not measured
    again. The names are those of the results.
    """
    return {
        name: record.once(folder / f"{slug(name)}.json", measure, told=name)
        for name, measure in parts.items()
    }


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
    """How the found value was obtained."""
    n: int

    @property
    def ratio(self) -> float:
        """Found over predicted."""
        return self.found / self.predicted


def compare_step_times(
    what: str,
    predicted_s: float,
    found_s: Sequence[float],
    *,
    predicted_by: Literal["planner", "simulator"],
    tier: Tier,
) -> Comparison:
    """A predicted step time beside the median of those that runs of `tier` found, in ms."""
    return Comparison(
        what=f"{what}: step time",
        predicted=predicted_s * 1e3,
        predicted_by=predicted_by,
        found=median(found_s) * 1e3,
        unit="ms",
        tier=tier,
        n=len(found_s),
    )


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

    An experiment has cases, which the launcher runs, or a `measure` that runs in this process, or
    neither. Without either, or where nothing can be emulated, `conclude` gets no results.
    """

    id: str
    title: str
    tier: Tier
    system: str
    """The system that the experiment is about, by the launcher's name."""
    world_size: int = 1
    cluster: str = "local"
    """What emulated and shaped cases run on."""
    cases: tuple[Case, ...] = ()
    repeats: Mapping[str, int] = field(default_factory=lambda: {"quick": 1, "full": 1})
    """Repetitions by level; each has its own seed, and cases alternate within a repetition."""
    prepare: Callable[[Level, Path], Sequence[Case]] | None = None
    """Makes the cases at a level, instead of `cases`, from what it measures here first. It keeps
    that in a folder, and goes on from what is there."""
    measure: Callable[[str, Path], Results] | None = None
    """Measures at a level, in this process. It keeps its results in a folder, and goes on from
    those that are there."""
    conclude: Callable[[Results, Path], Outcome]
    """Draws figures into a folder and judges claims."""


def measured_here(system: str, modules: Mapping[str, tuple[str, Any]]) -> tuple[Experiment, ...]:
    """Make experiments that are measured in this process.

    Args:
        system: the system that they are about.
        modules: the title of each experiment and the module whose functions `measure` and
            `conclude` are its own, by the experiment's id.
    """
    return tuple(
        Experiment(
            system=system,
            id=id,
            title=title,
            tier="measured",
            measure=module.measure,
            conclude=module.conclude,
        )
        for id, (title, module) in modules.items()
    )
