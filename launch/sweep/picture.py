"""Draws a sweep: throughput, or the speed-up over a baseline, against one of its variables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from launch.sweep.groups import Group
from launch.sweep.variables import BANDWIDTH, NODES, counted, in_words
from systems.figures.draw import FEW_POINTS, Bars, Curve, Lines, Panel, draw
from systems.job import Job
from systems.runs.record import Tier
from systems.schema import InputError

LABELS = {NODES: "ranks", BANDWIDTH: "Gb/s of every link"}
"""What the axes are called of variables whose name does not say it."""
UNITS = {BANDWIDTH: 1e9}
"""What the values of a variable are divided by."""
HOW: dict[Tier, str] = {
    "measured": "real computation and transport, on {machine}",
    "shaped": "real computation over shaped links, each rank on its share of a core, on {machine}",
    "emulated": "the program itself over shaped links, its computation replaced by waits from a "
    "profile, on {machine}",
    "simulated": "a model of the schedule, which is deterministic, without processes",
}
"""How the numbers of a tier came about."""
Series = Mapping[str, Sequence[Group]]
"""The groups of each series of a panel, by its name."""
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
    machines: Mapping[Tier, Sequence[str]]
    """What the points of each tier ran on."""
    failed: int
    """How many points have no figures."""

    @property
    def y(self) -> str:
        """The quantity of the y axis, with its unit."""
        words = " ".join(f"{name}={in_words(value)}" for name, value in self.baseline.items())
        return f"speed-up over {words}" if self.baseline else "samples/s"

    def shows(self, group: Group) -> bool:
        """Whether a group is drawn. The baseline itself is the line at 1."""
        has_x = self.x is None or _is_number(group.values[self.x])
        return has_x and bool(self.of(group)) and not group.is_of(self.baseline)

    def of(self, group: Group) -> Sequence[float]:
        """Return the values of a group on the y axis, one for each repetition."""
        return group.speed_ups if self.baseline else group.samples_per_s

    def labels(self, groups: Sequence[Group]) -> list[str]:
        """The name of each group's series: the values of what varies beside the x axis, if only
        between the baseline and what is drawn."""
        shown = list(filter(self.shows, groups))
        varied = [name for name in _varied(shown) if name != self.x]
        varied = varied or [name for name in _varied(groups) if name != self.x]

        def words(group: Group, name: str) -> str:
            return in_words(group.values[name]) if name == "scheme" else _setting(group, name)

        return [" ".join(words(group, name) for name in varied) or "all" for group in groups]


def _varied(groups: Sequence[Group]) -> list[str]:
    """The variables of which the groups have several values."""
    return [n for n in groups[0].values if len({group.values[n] for group in groups}) > 1]


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
    if not any(map(picture.shows, groups)):
        return None
    series: dict[str, list[Group]] = {}
    for label, group in zip(picture.labels(groups), groups, strict=True):
        if picture.shows(group):
            series.setdefault(label, []).append(group)
    tiers: list[Tier] = list(
        dict.fromkeys(group.tier for alike in series.values() for group in alike)
    )
    panels: list[Panel] = []
    for tier in tiers:
        # Every panel has all series, so that each has one colour.
        of_tier = {k: [g for g in alike if g.tier == tier] for k, alike in series.items()}
        panels.append(
            _bars(picture, of_tier, tier) if picture.x is None else _lines(picture, of_tier, tier)
        )
    return draw(
        folder / ("speed-up" if picture.baseline else "samples-per-s"),
        panels,
        _footnote(picture, groups, tiers),
        title=picture.y,
        tier=tiers[0],
        caption=picture.y,
        same_y=True,
    ).path


def _footnote(picture: Picture, groups: Sequence[Group], tiers: Sequence[Tier]) -> str:
    """Say how the numbers were obtained, and what is the same for all of them."""
    how = "; ".join(
        f"{tier}: {HOW[tier].format(machine=' and '.join(picture.machines[tier]))}"
        for tier in tiers
    )
    several = any(len(picture.of(group)) > 1 for group in groups)
    drawn = "; medians, bars from the least to the largest repetition" if several else ""
    if several and picture.baseline:
        drawn += ", each over the baseline in the same repetition"
    if picture.failed:
        drawn += f"; left out without figures: {counted(picture.failed, 'point')}"
    shown = list(filter(picture.shows, groups))
    same = [name for name in shown[0].values if name not in (*_varied(shown), picture.x)]
    return how + drawn + "".join(f"; {_setting(shown[0], name)}" for name in same)


def _title(picture: Picture, series: Series, tier: Tier) -> str:
    """Say what a panel shows, with its tier and the number of repetitions."""
    numbers = sorted({len(picture.of(group)) for alike in series.values() for group in alike})
    n = "-".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
    return f"{picture.job.name}: {picture.y}, {tier}, n={n}"


def _bars(picture: Picture, series: Series, tier: Tier) -> Bars:
    """A bar for every combination of values."""
    return Bars(
        groups=[label.replace(" ", "\n").replace("\nGb/s", " Gb/s") for label in series],
        series={tier: [picture.of(alike[0]) if alike else () for alike in series.values()]},
        unit=picture.y,
        value_format="{:.3g}" if picture.baseline else "{:,.0f}",
        title=_title(picture, series, tier),
        reference=1.0 if picture.baseline else None,
    )


def _lines(picture: Picture, series: Series, tier: Tier) -> Lines:
    """A line for every combination of the values beside the one on the x axis."""
    name = picture.x
    assert name is not None  # else there are bars
    curves: dict[str, Curve] = {}
    spread: dict[str, Curve] = {}
    for label, alike in series.items():
        alike = sorted(alike, key=lambda group: group.values[name])
        x = [group.values[name] / UNITS.get(name, 1) for group in alike]
        repeats = [picture.of(group) for group in alike]
        curves[label] = (x, [median(values) for values in repeats])
        if any(len(values) > 1 for values in repeats):
            spread[label] = (
                [min(values) for values in repeats],
                [max(values) for values in repeats],
            )
    everywhere = [value for x, _ in curves.values() for value in x]
    return Lines(
        series=curves,
        spread=spread,
        x_label=LABELS.get(name, name),
        y_label=picture.y,
        title=_title(picture, series, tier),
        from_zero=True,
        legend_below=True,
        ticks_at_points=len(set(everywhere)) <= FEW_POINTS,
        reference=1.0 if picture.baseline else None,
        logarithmic_x=min(everywhere) > 0 and max(everywhere) >= WIDE * min(everywhere),
    )


def _setting(group: Group, name: str) -> str:
    """A variable with its value in a group."""
    if name == BANDWIDTH and _is_number(group.values[name]):
        return f"{group.values[name] / 1e9:g} Gb/s"
    return f"{name}={in_words(group.values[name])}"


def _is_number(value: Any) -> bool:
    """Whether an axis can show a value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
