"""What goes wrong on a cluster, and when: a section [faults] of a cluster file.

    [[faults.stragglers]]
    rank = 3                    # computes for half as long again, for two seconds
    factor = 1.5
    until_s = 2.0

    [faults.jitter]             # every rank's speed, drawn anew every 0.1 s
    spread = 0.05
    every_s = 0.1

    [[faults.links]]
    node = 0                    # has a tenth of its rate left; with 0.0 it fails
    factor = 0.1
    from_s = 1.0

    [[faults.jobs]]             # a second job on the same network
    name = "backup"
    source = 1
    target = 2
    bandwidth_bits_per_s = 2e9

Ranks, nodes and racks are counted from 0. Seconds are counted from the beginning of the first step.
`systems.faulty` plays faults in the simulator.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Literal

from systems.schema import InputError


@dataclass(frozen=True, kw_only=True)
class _Lasting:
    """Something that goes wrong for a time."""

    from_s: float = 0.0
    """The second at which it begins."""
    until_s: float | None = None
    """The second at which it ends; None: it does not."""

    def __post_init__(self) -> None:
        if not 0 <= self.from_s < math.inf:
            raise InputError(f"from_s = {self.from_s:g}: give 0 or more seconds")
        if self.until_s is not None and not self.from_s < self.until_s:
            raise InputError(f"until_s = {self.until_s:g}: give more than from_s = {self.from_s:g}")

    @property
    def end_s(self) -> float:
        """The second at which it ends, or infinity."""
        return math.inf if self.until_s is None else self.until_s

    @property
    def when(self) -> str:
        """The time in words, after a blank; empty if it is always so."""
        start = f" from {self.from_s:g} s" if self.from_s else ""
        return start + (f" until {self.until_s:g} s" if self.until_s is not None else "")


@dataclass(frozen=True, kw_only=True)
class Straggler(_Lasting):
    """A rank that computes more slowly than its device would."""

    rank: int
    factor: float
    """Its computations take so many times as long."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.factor < math.inf:
            raise InputError(
                f"factor = {self.factor:g}: a straggler's computations take so many times as long; "
                "give more than 0, such as 1.5"
            )

    def __str__(self) -> str:
        return f"rank {self.rank} x{self.factor:g}{self.when}"


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Speeds of ranks that are drawn at random. The factor by which computations take longer is

    lognormal: e to the power of a normal variable with mean 0 and deviation `spread`;
    uniform: anything from 1 - spread to 1 + spread;
    exponential: 1 and an exponential variable of mean `spread`, which is never faster.
    """

    spread: float
    distribution: Literal["lognormal", "uniform", "exponential"] = "lognormal"
    every_s: float | None = None
    """Seconds after which each rank's factor is drawn anew; None: it is drawn once."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.spread < (1 if self.distribution == "uniform" else math.inf):
            raise InputError(
                f"spread = {self.spread:g}: give 0 or more, and less than 1 for a uniform one"
            )
        if self.every_s is not None and not 0 < self.every_s < math.inf:
            raise InputError(f"every_s = {self.every_s:g}: give more than 0 seconds")

    def factor(self, rank: int, period: int) -> float:
        """The factor of a rank in the period of that number, the same in every run."""
        random = Random(f"{self.seed} {rank} {period}")
        if self.distribution == "uniform":
            return 1 + self.spread * random.uniform(-1, 1)
        if self.distribution == "exponential":
            return 1 + self.spread * random.expovariate(1.0)
        return math.exp(self.spread * random.gauss(0.0, 1.0))

    def __str__(self) -> str:
        drawn = "once" if self.every_s is None else f"every {self.every_s:g} s"
        return f"{self.distribution} jitter of {self.spread:g}, drawn {drawn}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class LinkFault(_Lasting):
    """A link that degrades or fails, in both directions."""

    factor: float
    """The part of its rate that is left; 0: it fails."""
    node: int | None = None
    """The node whose network interface it is."""
    rack: int | None = None
    """The rack whose uplink it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.factor < math.inf:
            raise InputError(f"factor = {self.factor:g}: give the part of the rate that is left")
        if (self.node is None) == (self.rack is None):
            raise InputError("a link that degrades is that of a node or a rack: give one of them")

    def __str__(self) -> str:
        whose = f"node {self.node}" if self.rack is None else f"rack {self.rack}"
        what = "fails" if self.factor == 0 else f"at {self.factor:.3g} of its rate"
        return f"link of {whose} {what}{self.when}"


@dataclass(frozen=True, kw_only=True)
class OtherJob(_Lasting):
    """A stream of bytes of a second job, which shares the network."""

    name: str
    source: int
    """The node that sends."""
    target: int
    """The node that receives."""
    bandwidth_bits_per_s: float | None = None
    """The most that it sends; None: as much as the network gives it."""
    size_bytes: float | None = None
    """What it sends in all; None: it does not end by itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("bandwidth_bits_per_s", "size_bytes"):
            value = getattr(self, key)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{key} = {value:g}: give more than 0, or leave it out")
        if self.source == self.target:
            raise InputError(
                f"source = target = {self.source}: what stays in a node crosses no network; name "
                "two nodes"
            )

    def __str__(self) -> str:
        rate = self.bandwidth_bits_per_s
        much = "as fast as it can" if rate is None else f"{rate / 1e9:g} Gb/s"
        if self.size_bytes is not None:
            much += f", {self.size_bytes:g} bytes"
        return f"job {self.name!r} from node {self.source} to {self.target}: {much}{self.when}"


@dataclass(frozen=True, kw_only=True)
class Faults:
    """All that goes wrong. Faults at the same time act together: factors are multiplied."""

    stragglers: tuple[Straggler, ...] = ()
    jitter: Jitter | None = None
    links: tuple[LinkFault, ...] = ()
    jobs: tuple[OtherJob, ...] = ()

    def __bool__(self) -> bool:
        return self != NONE

    def __str__(self) -> str:
        jitter = () if self.jitter is None else (self.jitter,)
        return "; ".join(map(str, (*self.stragglers, *jitter, *self.links, *self.jobs)))

    def last_from_s(self) -> float:
        """The second at which the last of them begins."""
        lasting: tuple[_Lasting, ...] = (*self.stragglers, *self.links, *self.jobs)
        return max((one.from_s for one in lasting), default=0.0)

    def check(self, ranks: int, nodes: int, racks: int) -> None:
        """Raise an InputError for a fault of a rank, a node or a rack that is not there."""
        named = [("stragglers: rank", one.rank, ranks) for one in self.stragglers]
        named += [("links: node", one.node, nodes) for one in self.links if one.node is not None]
        named += [("links: rack", one.rack, racks) for one in self.links if one.rack is not None]
        named += [("jobs: source", one.source, nodes) for one in self.jobs]
        named += [("jobs: target", one.target, nodes) for one in self.jobs]
        for what, number, count in named:
            if not 0 <= number < count:
                known = f"there are 0 to {count - 1}" if count else "the cluster has none"
                raise InputError(f"faults: {what} = {number}: {known}")

    @cached_property
    def _stragglers_of(self) -> defaultdict[int, list[Straggler]]:
        """What slows each rank down."""
        found: defaultdict[int, list[Straggler]] = defaultdict(list)
        for one in self.stragglers:
            found[one.rank].append(one)
        return found

    @cached_property
    def _links_of(self) -> defaultdict[tuple[int | None, int | None], list[LinkFault]]:
        """What goes wrong on the link of each (node, rack), of which one is None."""
        found: defaultdict[tuple[int | None, int | None], list[LinkFault]] = defaultdict(list)
        for one in self.links:
            found[one.node, one.rack].append(one)
        return found

    def slow_at(self, rank: int, now_s: float) -> tuple[float, float]:
        """Say how slow a rank is at a second.

        Returns:
            (the factor by which its computations take longer, the second until which it is so).
        """
        factor, until_s = 1.0, math.inf
        for one in self._stragglers_of[rank]:
            if one.from_s <= now_s < one.end_s:
                factor, until_s = factor * one.factor, min(until_s, one.end_s)
            elif now_s < one.from_s:
                until_s = min(until_s, one.from_s)
        if self.jitter is not None:
            every_s = self.jitter.every_s or math.inf
            period = int(now_s / every_s)
            if (period + 1) * every_s <= now_s:  # a quotient that was rounded down
                period += 1
            factor *= self.jitter.factor(rank, period)
            until_s = min(until_s, (period + 1) * every_s)
        return factor, until_s

    def computed_s(self, rank: int, now_s: float, seconds: float) -> float:
        """The second at which a rank ends what would take it `seconds`, if it begins now."""
        while True:
            factor, until_s = self.slow_at(rank, now_s)
            end_s = now_s + seconds * factor
            if end_s <= until_s:
                return end_s
            seconds -= (until_s - now_s) / factor
            now_s = until_s

    def link_factors(
        self, *, node: int | None = None, rack: int | None = None
    ) -> dict[float, float]:
        """Return the part of the rate of a node's or a rack's link that is left, by the second from
        which it holds; the first second is always there."""
        own = self._links_of[node, rack]
        times = {0.0, *(t for one in own for t in (one.from_s, one.end_s) if t < math.inf)}
        return {
            time: math.prod(one.factor for one in own if one.from_s <= time < one.end_s)
            for time in sorted(times)
        }


NONE = Faults()
"""Nothing goes wrong."""
