"""When clients start, which updates count, and when the server steps: the policy of all schemes.

    coordinator = Coordinator(options, plan, seed)
    for flight in coordinator.start():         # the clients that should start now
        ...
    outcome, stepped = coordinator.arrived(number)      # one of them has come back

It knows numbers, not parameters: the virtual clock, the rank of a server and the simulator ask the
same one. Schemes differ in two places. In rounds, clients start when a step is done and not when
others end; and a step abandons whoever is still training.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from federated.durations import CHOICE, LOSS, drawn
from federated.options import Options

Outcome = Literal["taken", "stale", "late", "lost", "spoilt"]
"""What becomes of a flight: its update goes into the buffer; is too stale; comes after its round
has ended; its client has died; or another client of its masked buffer has."""
NUMBERS = 2 + len(get_args(Outcome))
"""The length of `Coordinator.numbers`."""


@dataclass(frozen=True, kw_only=True)
class FederatedPlan:
    """Who trains at once, and when the server steps."""

    concurrency: int
    """C: how many clients train at once."""
    goal: int
    """K: how many updates make a step. With masks, K flights in a row belong to one buffer."""
    step_s: float | None = None
    """The predicted seconds of a server step; None where nothing predicts them."""


@dataclass(frozen=True)
class Flight:
    """One training of one client."""

    number: int
    """How many flights have started before it."""
    client: int
    version: int
    """The version of the model that the client gets."""


@dataclass
class Coordinator:
    """The numbers of a server."""

    options: Options
    plan: FederatedPlan
    seed: int
    version: int = 0
    """The steps that the server has done."""
    started: int = 0
    """The flights that have started so far."""
    taken: int = 0
    """The updates in the buffer."""
    flights: dict[int, Flight] = field(default_factory=dict)
    """Those that train now, by number."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """What has become of all flights that have ended."""
    staleness: Counter[int] = field(default_factory=Counter)
    """How many updates of each staleness were taken."""
    cohorts: dict[int, int] = field(default_factory=dict)
    """With masks: how many updates of a buffer have come, by the number of the buffer."""
    spoilt: set[int] = field(default_factory=set)
    """With masks: the buffers of which a client was lost."""

    _busy: set[int] = field(default_factory=set)
    """The clients who train now."""

    def wanted(self) -> int:
        """How many clients should start now."""
        busy = len(self.flights) + (self.taken if self.options.in_rounds else 0)
        return max(0, self.plan.concurrency - busy)

    def start(self, most: int | None = None) -> list[Flight]:
        """Start the clients that should start now, but at most so many."""
        wanted = self.wanted() if most is None else min(self.wanted(), most)
        new = []
        for _ in range(wanted):
            client = _choose(self.options.clients, self._busy, self.seed, self.started)
            flight = Flight(self.started, client, self.version)
            self.flights[flight.number] = flight
            self._busy.add(client)
            new.append(flight)
            self.started += 1
        return new

    def dies_after(self, flight: Flight) -> float | None:
        """The share of its training after which the client of a flight dies; None: it lives."""
        if not self.options.lost:
            return None
        draw = drawn(self.seed, LOSS, flight.number)  # below the chance it is even in itself
        return draw / self.options.lost if draw < self.options.lost else None

    def arrived(self, number: int, *, alive: bool = True) -> tuple[Outcome, bool]:
        """A flight has ended: says what becomes of it, and whether the server steps now.

        A flight that is not known any more was abandoned by a step: nothing is counted twice.
        """
        flight = self.flights.pop(number, None)
        if flight is not None:
            self._busy.discard(flight.client)
        outcome = self._outcome(flight, number, alive)
        self.outcomes[outcome] += 1
        if flight is None or outcome != "taken":
            return outcome, False
        self.staleness[self.version - flight.version] += 1
        if self.options.masked:
            cohort = self.cohort(number)
            self.cohorts[cohort] = self.cohorts.get(cohort, 0) + 1
            full = self.cohorts[cohort] == self.plan.goal
        else:
            self.taken += 1
            full = self.taken == self.plan.goal
        if full:
            self._step(number)
        return outcome, full

    def cohort(self, number: int) -> int:
        """The masked buffer to which a flight belongs."""
        return number // self.plan.goal

    def _outcome(self, flight: Flight | None, number: int, alive: bool) -> Outcome:
        if flight is None:
            return "late"
        if self.options.masked:
            cohort = self.cohort(number)
            if not alive:
                self.spoilt.add(cohort)
                dropped = self.cohorts.pop(cohort, 0)
                self.outcomes.update(taken=-dropped, spoilt=dropped)
            if cohort in self.spoilt:
                return "spoilt" if alive else "lost"
        if not alive:
            return "lost"
        limit = self.options.max_staleness
        return "taken" if limit is None or self.version - flight.version <= limit else "stale"

    def _step(self, number: int) -> None:
        """The server steps: the buffer is empty, and in rounds nobody is waited for any more."""
        self.version += 1
        self.taken = 0
        self.cohorts.pop(self.cohort(number), None)
        if self.options.in_rounds:
            self.flights.clear()
            self._busy.clear()

    def numbers(self) -> list[int]:
        """What it must remember to go on after a step, with nobody training: see `restore`."""
        return [self.version, self.started, *(self.outcomes[name] for name in get_args(Outcome))]

    def restore(self, numbers: Sequence[int]) -> None:
        """Go on from `numbers`. Whoever was training then is gone, and others start."""
        self.version, self.started, *counts = numbers
        self.outcomes = Counter(dict(zip(get_args(Outcome), counts, strict=True)))


def _choose(clients: int, busy: set[int], seed: int, number: int) -> int:
    """A client for a flight, drawn evenly from those that do not train."""
    again, client = 0, -1
    while client < 0 or client in busy:
        client = int(drawn(seed, CHOICE, number, again) * clients)
        again += 1
    return client
