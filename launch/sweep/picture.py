"""Draws a sweep: throughput, or the speed-up over a baseline, against one of its variables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from launch.job import Job
from launch.sweep.groups import Group
from launch.sweep.variables import BANDWIDTH, NODES, in_words
from systems.figures.draw import Bars, Curve, Lines, Panel, draw
from systems.figures.text import machine
from systems.runs.record import Tier
from systems.schema import InputError

LABELS = {NODES: "ranks", BANDWIDTH: "Gb/s of every link"}
"""What the axes are called of variables whose name does not say it."""
UNITS = {BANDWIDTH: 1e9}
"""What the values of a variable are divided by."""
HOW: dict[Tier, str] = {
    "measured": "real computation and transport, on {machine}",
    "emulated": "the program itself over shaped links, its computation replaced by waits from a "
    "profile, on {machine}",
    "simulated": "a model of the schedule, which is deterministic, without processes",
}
"""How the numbers of a tier came about."""
WIDE = 4
"""Axes are logarithmic if the largest value is so many times the least."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What is drawn."""

    job: Job
    """The job that is varied."""
    x: str | None
    """The variable of the x axis; None: there is no numeric one, and bars are drawn."""
    baseline: Mapping[str, Any]

    @property
    def y(self) -> str:
        """What is drawn, with its unit."""
        words = " ".join(f"{name}={in_words(value)}" for name, value in self.baseline.items())
        return f"speed-up over {words}" if self.baseline else "samples/s"

    def shows(self, group: Group) -> bool:
        """Whether a group is drawn. The baseline itself is the line at 1."""
        has_x = self.x is None or _is_number(group.values[self.x])
        return has_x and bool(self.of(group)) and not group.is_of(self.baseline)

    def of(self, group: Group) -> Sequence[float]:
        """What is drawn of a group."""
        return group.speed_ups if self.baseline else group.samples_per_s

    def label(self, group: Group, groups: Sequence[Group]) -> str:
        """The values of a group that differ in the picture, without that of the x axis."""
        varied = [
            name
            for name in group.values
            if name != self.x and len({other.values[name] for other in groups}) > 1
        ]
        words = [in_words(group.values[n]) if n == "scheme" else _setting(group, n) for n in varied]
        return " ".join(words) or "all"


def choose_x(values: Mapping[str, Sequence[Any]], wanted: str | None) -> str | None:
    """The variable of the x axis: the one that is wanted, or else nodes, the rate of the links, or
    the first with numbers. Variables with several values come first. None: none has numbers.

    Args:
        values: all values of everything that is varied, by its name.

    Raises:
        InputError: the wanted one is not varied, or has no numbers.
    """
    numeric = [name for name, of_name in values.items() if all(map(_is_number, of_name))]
    if wanted is not None and wanted not in numeric:
        known = ", ".join(numeric) or "none; leave it out"
        raise InputError(f"--x {wanted}: is not varied, or has no numbers; with numbers: {known}")
    several = [name for name in numeric if len(set(values[name])) > 1]
    order = [name for name in (NODES, BANDWIDTH) if name in several] + several + numeric
    return wanted or next(iter(order), None)


def draw_sweep(picture: Picture, groups: Sequence[Group], folder: Path) -> Path | None:
    """Draw the groups, a panel for every tier, as PNG, PDF and CSV; returns the PNG's path. None:
    there is nothing to draw."""
    shown = [g for g in groups if picture.shows(g)]
    tiers: list[Tier] = list(dict.fromkeys(group.tier for group in shown))
    if not shown:
        return None
    panels = [_panel(picture, [g for g in shown if g.tier == tier], tier) for tier in tiers]
    path = folder / ("speed-up" if picture.baseline else "samples-per-s")
    return draw(
        path, panels, _footnote(picture, shown), title=picture.y, tier=tiers[0], caption=picture.y
    ).path


def _footnote(picture: Picture, groups: Sequence[Group]) -> str:
    """How the numbers were obtained, and what is the same for all of them."""
    tiers = dict.fromkeys(group.tier for group in groups)
    how = "; ".join(f"{tier}: {HOW[tier].format(machine=machine())}" for tier in tiers)
    several = any(len(picture.of(group)) > 1 for group in groups)
    drawn = "; medians, bars from the least to the largest repetition" if several else ""
    if several and picture.baseline:
        drawn += ", each over the baseline in the same repetition"
    same = [
        n for n in groups[0].values if n != picture.x and len({g.values[n] for g in groups}) == 1
    ]
    settings = "".join(f"; {_setting(groups[0], name)}" for name in same)
    return f"{how}{drawn}{settings}"


def _panel(picture: Picture, groups: Sequence[Group], tier: Tier) -> Panel:
    """What one tier has found."""
    numbers = sorted({len(picture.of(group)) for group in groups})
    n = "-".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
    title = f"{picture.job.name}: {picture.y}, {tier}, n={n}"
    reference = 1.0 if picture.baseline else None
    if picture.x is None:
        names = [picture.label(group, groups) for group in groups]
        return Bars(
            groups=names,
            series={tier: [picture.of(group) for group in groups]},
            unit=picture.y,
            title=title,
            reference=reference,
        )
    series: dict[str, Curve] = {}
    spread: dict[str, Curve] = {}
    for label in dict.fromkeys(picture.label(group, groups) for group in groups):
        alike = [group for group in groups if picture.label(group, groups) == label]
        alike.sort(key=lambda group: group.values[picture.x or ""])
        x = [group.values[picture.x] / UNITS.get(picture.x, 1) for group in alike]
        found = [picture.of(group) for group in alike]
        series[label] = (x, [median(values) for values in found])
        if numbers[-1] > 1:
            spread[label] = ([min(values) for values in found], [max(values) for values in found])
    everywhere = [value for x, _ in series.values() for value in x]
    return Lines(
        series=series,
        spread=spread,
        x_label=LABELS.get(picture.x, picture.x),
        y_label=picture.y,
        title=title,
        from_zero=True,
        reference=reference,
        logarithmic_x=min(everywhere) > 0 and max(everywhere) >= WIDE * min(everywhere),
    )


def _setting(group: Group, name: str) -> str:
    """A variable with its value in a group."""
    return f"{name}={in_words(group.values[name])}"


def _is_number(value: Any) -> bool:
    """Whether an axis can show a value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
