"""The repetitions of a point, taken together and compared with those of a baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from launch.sweep.rows import Row
from systems.runs.record import Tier


@dataclass(frozen=True, kw_only=True)
class Group:
    """The repetitions of one combination of values, in one tier, that have figures."""

    tier: Tier
    values: Mapping[str, Any]
    """The value of everything that the sweep varies."""
    samples_per_s: tuple[float, ...]
    speed_ups: tuple[float, ...]
    """Over the baseline in the same repetition, for those that both have. Empty: no baseline."""
    efficiencies: tuple[float, ...]
    """The scaling efficiency of every repetition; empty where the sweep has one world size."""

    def is_of(self, baseline: Mapping[str, Any]) -> bool:
        """Whether this is a point of the baseline itself."""
        return bool(baseline) and all(self.values[k] == value for k, value in baseline.items())


def group(rows: Sequence[Row], names: Sequence[str], baseline: Mapping[str, Any]) -> list[Group]:
    """The rows that have figures, by tier and values, in the order of the rows.

    Args:
        names: what the sweep varies.
        baseline: the values in which a point's baseline differs from it. Empty: there is none.
    """
    groups: dict[tuple[Any, ...], dict[int, Row]] = {}
    for row in rows:
        if row.samples_per_s is not None:
            key = (row.point.tier, *(row.value(name) for name in names))
            groups.setdefault(key, {})[row.point.repetition] = row
    return [_group(groups, key, names, baseline) for key in groups]


def _group(
    groups: Mapping[tuple[Any, ...], Mapping[int, Row]],
    key: tuple[Any, ...],
    names: Sequence[str],
    baseline: Mapping[str, Any],
) -> Group:
    """The group of that key, beside the group of its baseline."""
    tier, *values = key
    named = dict(zip(names, values, strict=True))
    of_baseline: Mapping[int, Row] = {}
    if baseline:
        partner = {**named, **baseline}
        of_baseline = groups.get((tier, *(partner[name] for name in names)), {})
    pairs = [
        (row.samples_per_s, of_baseline[repetition].samples_per_s)
        for repetition, row in groups[key].items()
        if repetition in of_baseline
    ]
    alone = groups[key].values()
    return Group(
        tier=tier,
        values=named,
        samples_per_s=tuple(row.samples_per_s for row in alone if row.samples_per_s is not None),
        speed_ups=tuple(ours / theirs for ours, theirs in pairs if ours and theirs),
        efficiencies=tuple(r.scaling_efficiency for r in alone if r.scaling_efficiency is not None),
    )


def without_effect(groups: Sequence[Group]) -> list[str]:
    """Find the variables that change no simulated point: points that differ in that variable alone
    are exactly equal, as where the simulation knows nothing of an option."""
    simulated = [group for group in groups if group.tier == "simulated"]
    names = list(simulated[0].values) if simulated else []
    return [name for name in names if _is_without_effect(simulated, name)]


def _is_without_effect(groups: Sequence[Group], name: str) -> bool:
    """Whether groups that differ in one variable alone are all equal; False if there are none."""
    alike: dict[tuple[Any, ...], list[tuple[float, ...]]] = {}
    for each in groups:
        others = tuple(value for other, value in each.values.items() if other != name)
        alike.setdefault(others, []).append(each.samples_per_s)
    compared = [rates for rates in alike.values() if len(rates) > 1]
    return bool(compared) and all(len(set(rates)) == 1 for rates in compared)


def in_short(values: Sequence[float], form: str) -> str:
    """Write the median of values, with the least and the largest if there are several."""
    middle = format(median(values), form)
    return middle + (f" [{min(values):{form}}, {max(values):{form}}]" if len(values) > 1 else "")
