"""When flows over shared links end, in exact arithmetic: the simulator's slow, plain reference."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

Flow = tuple[int, int, int, int]
"""Start second, source, target, bytes."""
Resource = tuple[int, str]
"""One direction of a link."""
Shared = TypeVar("Shared", bound=Hashable)
"""What transfers share, such as a `Resource`."""


def exact_ends(
    given_flows: Sequence[Flow],
    path: Callable[[int, int], Sequence[Resource]],
    capacity: Callable[[Resource, Fraction], Fraction],
    turns: Sequence[int] = (),
) -> list[float]:
    """The seconds at which flows end; everything is computed anew at every event.

    Args:
        path: what a flow passes, by its source and target.
        capacity: the bytes a second of a resource at a time.
        turns: the seconds at which capacities change.
    """
    paths = [path(source, target) for _, source, target, _ in given_flows]
    left = {i: Fraction(size) for i, (*_, size) in enumerate(given_flows)}
    ends: dict[int, Fraction] = {}
    now = Fraction(0)
    while left:
        active = [i for i in left if given_flows[i][0] <= now]
        once = {i: dict.fromkeys(paths[i], 1) for i in active}
        rates = fair_rates(once, {r: capacity(r, now) for i in active for r in paths[i]})
        horizons = [left[i] / rates[i] for i in active if rates[i]]
        horizons += [f[0] - now for i, f in enumerate(given_flows) if i in left and f[0] > now]
        horizons += [turn - now for turn in turns if turn > now]
        step = min(horizons)
        now += step
        for i in active:
            left[i] -= rates[i] * step
            if left[i] == 0:
                ends[i] = now
                del left[i]
    return [float(ends[i]) for i in range(len(given_flows))]


def fair_rates(
    loads: Mapping[int, Mapping[Shared, int]], capacity: Mapping[Shared, Fraction | int]
) -> dict[int, Fraction]:
    """Max-min fair rates by water-filling: all that are open grow alike until a resource is full.

    Args:
        loads: what each loads its resources with; where it loads one most, it takes its rate.
    """
    paces = {number: max(load.values()) for number, load in loads.items()}
    rates = dict.fromkeys(loads, Fraction(0))
    open_ones = set(loads)
    while open_ones:
        growth: dict[Shared, Fraction] = {}
        for resource in {one for number in open_ones for one in loads[number]}:
            weights = {
                n: Fraction(of[resource], paces[n]) for n, of in loads.items() if resource in of
            }
            left = capacity[resource] - sum(rates[n] * weight for n, weight in weights.items())
            among = sum((weights[n] for n in weights if n in open_ones), Fraction(0))
            growth[resource] = left / among
        least = min(growth.values())
        for number in open_ones:
            rates[number] += least
        full = {resource for resource, more in growth.items() if more == least}
        open_ones -= {number for number in open_ones if full & set(loads[number])}
    return rates
