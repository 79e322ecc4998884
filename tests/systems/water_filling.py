"""When flows over shared links end, in exact arithmetic: the simulator's slow, plain reference."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

Flow = tuple[int, int, int, int]
"""Start second, source, target, bytes."""
Resource = tuple[int, str]
"""One direction of a link."""


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
        rates = _fair_rates({i: paths[i] for i in active}, capacity, now)
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


def _fair_rates(
    paths: Mapping[int, Sequence[Resource]],
    capacity: Callable[[Resource, Fraction], Fraction],
    now: Fraction,
) -> dict[int, Fraction]:
    """Water-filling: raise all open rates alike until a resource is full, close its flows."""
    rates = {i: Fraction(0) for i in paths}
    open_flows = set(paths)
    while open_flows:
        steps = {}
        for resource in {resource for path in paths.values() for resource in path}:
            used = sum(rates[i] for i in paths if resource in paths[i])
            count = sum(resource in paths[i] for i in open_flows)
            if count:
                steps[resource] = (capacity(resource, now) - used) / count
        step = min(steps.values())
        for i in open_flows:
            rates[i] += step
        full = {resource for resource, value in steps.items() if value == step}
        open_flows -= {i for i in open_flows if full & set(paths[i])}
    return rates
