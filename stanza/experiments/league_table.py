"""Reads the runs of the league: who reaches the accuracy when, at which links.

The seconds to it are the steps to it, from the runs to the end, times the seconds of a step, which
were measured at those links.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from stanza.experiments.accuracy_curves import crossing, step_s
from stanza.experiments.digits_figures import busiest
from systems.figures.experiment import Results
from systems.figures.progress import Curve

Run = Mapping[str, Any]
"""The result of a run."""


def end_name(contestant: str) -> str:
    """The name of the case in which a contestant trains to the end."""
    return f"{contestant} to the end"


def short_name(contestant: str, gbit: float) -> str:
    """The name of the case in which it runs a few steps at such links."""
    return f"{contestant} at {gbit:g} Gbit"


@dataclass(frozen=True)
class League:
    """All runs."""

    results: Results
    contestants: tuple[str, ...]
    rates_gbit: tuple[float, ...]
    """What the links were equivalent to."""
    target: float
    """The test accuracy to reach."""
    begins: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """The first step of contestants whose exchange begins later, and whose steps they take
    before."""

    @property
    def names(self) -> list[str]:
        """The contestants that were trained."""
        return [name for name in self.contestants if self.results.get(end_name(name))]

    def ends(self, name: str) -> Sequence[Run]:
        """The runs of a contestant to the end, by seed."""
        return self.results[end_name(name)]

    def steps_s(self, name: str, gbit: float) -> list[float]:
        """The mean step times of a contestant's runs at such links."""
        return [step_s(run) for run in self.results.get(short_name(name, gbit), ())]

    def seconds_to(self, name: str, gbit: float) -> list[float]:
        """The seconds to the target at such links, by seed, without the seeds that do not reach
        it."""
        return [seconds for seconds in self._seconds_by_seed(name, gbit) if seconds is not None]

    def _seconds_by_seed(self, name: str, gbit: float) -> list[float | None]:
        """The same with None for seeds that do not reach it; empty where no step was measured."""
        if not self.steps_s(name, gbit):
            return []
        reached = [self._steps_to_target(run) for run in self.ends(name)]
        return [None if steps is None else self._seconds(name, gbit, steps) for steps in reached]

    def _seconds(self, name: str, gbit: float, steps: float) -> float:
        """The seconds of so many steps of a contestant at such links."""
        first, others = self.begins.get(name, (0, name))
        before_s, own_s = (median(self.steps_s(one, gbit)) for one in (others, name))
        return before_s * min(steps, first) + own_s * max(0.0, steps - first)

    def _steps_to_target(self, run: Run) -> float | None:
        """The steps after which the tests of a run first reach the target."""
        tests = run["tests"]
        accuracies = [test["test_accuracy"] for test in tests]
        return crossing([test["steps"] for test in tests], accuracies, self.target)

    def gains(self, name: str, plain: str, gbit: float) -> list[float]:
        """Return how many times sooner a contestant reaches the target than another, by seed: 0 for
        a seed that does not reach it. It is empty where the other one does not."""
        if plain not in self.names:
            return []
        ours, theirs = self._seconds_by_seed(name, gbit), self.seconds_to(plain, gbit)
        if not len(ours) == len(theirs) == len(self.ends(plain)):
            return []
        return [0.0 if a is None else b / a for a, b in zip(ours, theirs, strict=True)]

    def quicker_steps(self, name: str, plain: str, gbit: float) -> list[float]:
        """How many times as long the steps of another contestant take, by this one's run."""
        theirs = self.steps_s(plain, gbit)
        return [median(theirs) / step for step in self.steps_s(name, gbit)] if theirs else []

    def ranking(self, gbit: float) -> list[tuple[str, float | None]]:
        """Rank the contestants by their median seconds to the target, the quickest first. Those of
        which most seeds do not reach it come last, with None."""
        rows: list[tuple[str, float | None]] = []
        for name in self.names:
            seconds = self.seconds_to(name, gbit)
            enough = 2 * len(seconds) > len(self.ends(name))
            rows.append((name, median(seconds) if enough else None))
        return sorted(rows, key=lambda row: (row[1] is None, row[1] or 0.0))

    def curve(self, name: str, gbit: float) -> Curve:
        """Accuracy over the seconds of training at such links, of the first seed."""
        tests = self.ends(name)[0]["tests"]
        seconds = [self._seconds(name, gbit, test["steps"]) for test in tests]
        return seconds, [test["test_accuracy"] for test in tests]

    def accuracy(self, name: str) -> float:
        """The median test accuracy at the end."""
        return median(run["test_accuracy"] for run in self.ends(name))

    def staleness(self, name: str) -> tuple[float, float] | None:
        """The mean and the largest staleness in the runs to the end, in updates; None where workers
        wait for each other."""
        reports = [
            run["staleness_updates"] for run in self.ends(name) if "staleness_updates" in run
        ]
        if not reports:
            return None
        return median(t["mean"] for t in reports), max(t["largest"] for t in reports)

    def sent_bytes(self, name: str) -> float | None:
        """The bytes per step of the busiest rank in one direction, as the kernel counted them in
        the first run to the end; None where it does not count."""
        return busiest(self.ends(name)[0], "tcp")
