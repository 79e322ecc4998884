"""Reads the runs of the time-to-accuracy experiment: curves of accuracy, and the time to a target.

A run to the end has its own curve: what the tests found, over the seconds of training without the
tests. A short run has a measured step time. As every scheme takes the same steps, its accuracy
after so many steps is that of another scheme's run to the end. Its curve is then that run's, at its
own pace: continued, not measured. Where no scheme ran to the end there are no curves.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from stanza.experiments import box
from systems.figures.experiment import Results
from systems.figures.progress import Curve
from systems.runs import record

Run = Mapping[str, Any]
"""The result of a run."""


@dataclass(frozen=True)
class Setting:
    """A small network, and the model whose ratio of computing to communicating it gets."""

    name: str
    network: str
    model: str


def case_name(setting: Setting, scheme: str, ranks: int) -> str:
    """The name of the case of a scheme that runs a few steps."""
    return f"{setting.name} {scheme} {ranks}"


def end_name(setting: Setting, scheme: str, ranks: int) -> str:
    """The name of the case of a scheme that runs to the end."""
    return f"{case_name(setting, scheme, ranks)} to the end"


def step_s(run: Run) -> float:
    """The seconds of a step on average, in the measured window."""
    return float(run["samples_per_step"] / run["samples_per_s"])


def crossing(xs: Sequence[float], ys: Sequence[float], target: float) -> float | None:
    """The x at which y first reaches the target, on straight lines between the points; None if it
    does not."""
    for i, y in enumerate(ys):
        if y >= target:
            if i == 0:
                return xs[0]
            part = (target - ys[i - 1]) / (y - ys[i - 1])
            return xs[i - 1] + part * (xs[i] - xs[i - 1])
    return None


@dataclass(frozen=True)
class Point:
    """One scheme in one setting on so many ranks."""

    setting: Setting
    scheme: str
    ranks: int
    runs: tuple[Run, ...]
    """Those that tell the step time, by seed: the short ones, or else those to the end."""
    ends: tuple[Run, ...]
    """Those to the end, by seed."""
    learned: tuple[Run, ...]
    """Runs to the end from which the accuracy after so many steps is known, by seed; the first one
    stands for seeds that are missing. They are its own, another scheme's, or none."""

    @property
    def name(self) -> str:
        """The name of the point in claims."""
        return f"{self.setting.name}-{self.ranks}"

    def seconds_to(self, target: float) -> list[float]:
        """The seconds to the target, by seed; none where a seed does not reach it."""
        if not self.learned:
            return []
        times = [crossing(*self.curve(seed), target) for seed in range(len(self.runs))]
        reached = [seconds for seconds in times if seconds is not None]
        return reached if len(reached) == len(times) else []

    def curve(self, seed: int = 0) -> Curve:
        """The accuracy over the seconds of training: measured where this scheme ran to the end with
        the seed, else continued."""
        measured = seed < len(self.ends)
        tests = self.learned[seed if seed < len(self.learned) else 0]["tests"]
        pace_s = step_s(self.runs[seed])
        seconds = [t["trained_s"] if measured else t["steps"] * pace_s for t in tests]
        return seconds, [t["test_accuracy"] for t in tests]

    @property
    def predicted_step_s(self) -> float | None:
        """The step time that the planner predicted from the layers' times on these ranks."""
        predicted = [run["predicted_step_s"] for run in self.runs]
        return None if None in predicted else median(predicted)

    def predicted_curve(self) -> Curve:
        """The accuracy over the seconds that the planner predicted for so many steps."""
        tests, predicted_s = self.learned[0]["tests"], self.predicted_step_s or 0.0
        return [t["steps"] * predicted_s for t in tests], [t["test_accuracy"] for t in tests]

    @property
    def steps_s(self) -> list[float]:
        """The mean step time of every run."""
        return [step_s(run) for run in self.runs]

    @property
    def rate_bits_per_s(self) -> float:
        """The rate of every link."""
        return float(self.runs[0]["calibration"]["rate_bits_per_s"][0])

    @property
    def balance(self) -> box.Balance | None:
        """Computing and communicating on a rank as they were measured before the runs: those that
        the prediction of DDP's step rests on."""
        plan = record.read_json(Path(self.runs[0]["record"]) / "run.json")["plan"]
        for prediction in plan["predictions"]:
            if prediction["scheme"] == "ddp":
                resources = prediction["resources"]
                crossings = 2 * (self.ranks - 1) / self.ranks
                return box.Balance(resources["compute"], resources["network"] / crossings)
        return None


@dataclass(frozen=True)
class Trained:
    """All runs of the experiment."""

    results: Results
    settings: tuple[Setting, ...]
    schemes: tuple[str, ...]
    target: float
    """The accuracy to reach."""
    steps: int
    """Those of a run to the end."""

    @cached_property
    def points(self) -> dict[tuple[str, int], dict[str, Point]]:
        """The points by the setting's name and the ranks, and then by scheme."""
        points: dict[tuple[str, int], dict[str, Point]] = {}
        for setting in self.settings:
            for ranks in (4, 8):
                row = {scheme: self._point(setting, scheme, ranks) for scheme in self.schemes}
                here = {scheme: point for scheme, point in row.items() if point is not None}
                if here:
                    points[setting.name, ranks] = here
        return points

    def _point(self, setting: Setting, scheme: str, ranks: int) -> Point | None:
        """Gather one scheme's runs; None where it was not run."""
        ends = tuple(self.results.get(end_name(setting, scheme, ranks), ()))
        runs = tuple(self.results.get(case_name(setting, scheme, ranks), ends))
        others = self.ends(setting, ranks)
        learned = ends or tuple(others[0][1] if others else ())
        return Point(setting, scheme, ranks, runs, ends, learned) if runs else None

    def ends(self, setting: Setting, ranks: int) -> list[tuple[str, Sequence[Run]]]:
        """The schemes that ran to the end, and their runs."""
        runs_of = ((s, self.results.get(end_name(setting, s, ranks), ())) for s in self.schemes)
        return [(scheme, runs) for scheme, runs in runs_of if runs]

    def all_points(self) -> Iterator[Point]:
        """Return every point."""
        for row in self.points.values():
            yield from row.values()


def gain(slow: Point, fast: Point, target: float) -> list[float]:
    """How many times sooner one scheme reaches the target than another, by seed.

    Where no run was to the end, or a seed does not reach the target, it is the ratio of their step
    times: both take the same steps.
    """
    ours, theirs = fast.seconds_to(target), slow.seconds_to(target)
    if not ours or not theirs:
        ours, theirs = fast.steps_s, slow.steps_s
    return [b / a for a, b in zip(ours, theirs, strict=True)]
