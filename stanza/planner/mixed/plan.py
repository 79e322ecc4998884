"""The planner for clusters whose nodes differ.

Ranks with data come first in every layout, and FC workers or dedicated servers last. Which nodes
the last ranks run on is part of the plan: it tries those that the file names last, and then, for
each kind of node, as many of that kind (not every choice of nodes: equal ones are equal). Ranks
that a launcher starts are on the nodes that it says; there the order of the file stays.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from stanza.layout import Layout, layout_of, separated_layout
from stanza.options import AUTO, EQUAL, Options
from stanza.planner.baselines import baseline_options
from stanza.planner.candidates import (
    MICRO_BATCHES,
    PUBLISHED_MODE,
    WORTH_IT,
    Mode,
    costs_at,
    fc_workers_tried,
    modes,
)
from stanza.planner.costs import CostsAt
from stanza.planner.memory import needed_bytes, too_small
from stanza.planner.mixed import recurrence
from stanza.planner.mixed.predict import BASELINES
from stanza.planner.mixed.shares import balanced
from stanza.planner.plan import Plan, choose, with_shares
from stanza.planner.predict import Prediction
from stanza.planner.simulated import played_plan
from systems.clusters.cluster import Cluster
from systems.clusters.links import Links
from systems.clusters.mixed import Seat, seats_of
from systems.profiles.profile import ModelProfile
from systems.schema import InputError


@dataclass(frozen=True)
class Placed:
    """Nodes in the order of the ranks that run on them, with the costs of the model on each
    node."""

    order: tuple[int, ...]
    """By rank, the number of its node in the order of the file."""
    seats: tuple[Seat, ...]
    """By rank."""
    at: tuple[CostsAt, ...]
    """By rank."""

    @property
    def links(self) -> Links:
        """The link of every rank."""
        return Links(tuple(seat.link for seat in self.seats))


@dataclass(frozen=True)
class Candidate:
    """A layout on nodes in some order, and its prediction."""

    prediction: Prediction
    layout: Layout
    placed: Placed
    shares: tuple[int, ...]
    """The samples of each rank with data."""
    fault: str | None
    """Which node's memory is too small."""


@dataclass(frozen=True)
class Fleet:
    """A mixed cluster with the profiles of its kinds of devices."""

    options: Options
    cluster: Cluster
    profiles: Mapping[str, ModelProfile]
    in_order: bool = False
    """Whether rank 0 runs on the first node of the file, and so on."""

    def orders(self, last: int) -> Iterator[Placed]:
        """List the orders of the nodes to try where the last `last` ranks do something else than
        the others.

        The numbers of `batch_shares` are by rank, so that with them nodes keep their order.
        """
        seats = seats_of(self.cluster)
        ranks, seen = range(len(seats)), list[list[Seat]]()
        kinds: list[Seat | None] = [None, *dict.fromkeys(seats)]
        if self.in_order or not last or self.options.batch_shares not in (EQUAL, AUTO):
            kinds = [None]
        for kind in kinds:
            # Those of the kind, and if they are too few the last of the others.
            order = sorted(ranks, key=lambda rank: (seats[rank] == kind, rank))
            placed = [seats[rank] for rank in order]
            if placed not in seen:
                seen.append(placed)
                yield self.placed(order)

    def placed(self, order: Sequence[int]) -> Placed:
        """The nodes in an order."""
        seats = seats_of(self.cluster)
        by_rank = [seats[number] for number in order]
        return Placed(tuple(order), tuple(by_rank), tuple(self._at[s.kind] for s in by_rank))

    @cached_property
    def _at(self) -> dict[str, CostsAt]:
        """The costs of the model, by the kind of device; they remember what they have answered."""
        return {kind: costs_at(self.options, profile) for kind, profile in self.profiles.items()}

    def shares(self, placed: Placed, workers: int, *, separated: bool) -> tuple[int, ...]:
        """Count the samples of each of so many workers with data."""
        if self.options.batch_shares != AUTO:
            return self.options.shares(workers)
        samples = self.options.samples_per_step(workers)
        return balanced(placed.at[:workers], samples, separated=separated)

    def candidate(
        self, prediction: Prediction, layout: Layout, placed: Placed, shares: tuple[int, ...]
    ) -> Candidate:
        """A candidate, with what is known of its memory."""
        profile = next(iter(self.profiles.values()))
        needed = needed_bytes(self.options, layout, profile, shares)
        return Candidate(
            prediction, layout, placed, shares, too_small(layout, needed, placed.seats)
        )


def plan_mixed(
    options: Options,
    cluster: Cluster,
    profiles: Mapping[str, ModelProfile],
    *,
    in_order: bool = False,
) -> Plan:
    """Plan a run of `options` with a rank on each node of a mixed cluster.

    Args:
        profiles: one for each kind of device of the cluster.
        in_order: whether ranks run on the nodes in the order of the file.

    Raises:
        InputError: there are too few ranks or samples, or no plan fits the memory of the nodes.
    """
    fleet, size = Fleet(options, cluster, profiles, in_order), cluster.size
    if options.scheme != "stanza" and options.scheme_name not in BASELINES:
        return _as_given(fleet, size)
    every = [*_baselines(fleet, size), *_separated(fleet, size)]
    best, reason = _chosen(fleet, size, every)
    if best.fault is not None:
        raise InputError(
            f"--cluster {cluster.name}: {best.fault}; give a smaller batch, or another scheme"
        )
    return Plan(
        layout=best.layout,
        reason=reason,
        chosen=best.prediction,
        predictions=tuple(one.prediction for one in every if one.fault is None),
        profile="; ".join(
            f"{p.name}, batch {p.batch_size}, {p.device}: {p.source}" for p in profiles.values()
        ),
        bandwidth_bits_per_s=cluster.slowest_link.bandwidth_bits_per_s,
        order=best.placed.order,
        devices=tuple(seat.kind for seat in best.placed.seats),
        shares=best.shares,
    )


def _as_given(fleet: Fleet, size: int) -> Plan:
    """Plan a scheme that nobody predicts, on the nodes in the order of the file."""
    equal = dataclasses.replace(fleet.options, batch_shares=EQUAL)
    layout, placed = layout_of(equal, size, 0, 1), fleet.placed(range(size))
    return Plan(
        layout=layout,
        reason="as given",
        order=placed.order,
        devices=tuple(seat.kind for seat in placed.seats),
        shares=fleet.shares(placed, len(layout.data_ranks), separated=False),
    )


def _baselines(fleet: Fleet, size: int) -> Iterator[Candidate]:
    """Find the fastest order of every baseline that has a sample for every worker."""
    for scheme in BASELINES if size > 1 else ("ddp",):
        options = dataclasses.replace(fleet.options, **baseline_options(scheme))
        dedicated = (
            options.ps_servers if options.scheme_name in ("ps-blocking", "ps-pipelined") else 0
        )
        if dedicated < size:
            tried = [
                _baseline(fleet, scheme, placed, size - dedicated)
                for placed in fleet.orders(dedicated)
            ]
            candidates = [one for one in tried if one is not None]
            if candidates:
                yield _fastest(candidates)


def _baseline(fleet: Fleet, scheme: str, placed: Placed, workers: int) -> Candidate | None:
    """Predict a baseline on nodes in an order; None if a worker has no sample."""
    shares = fleet.shares(placed, workers, separated=False)
    if not min(shares):
        return None
    changed = dataclasses.replace(fleet.options, **baseline_options(scheme), batch_shares=EQUAL)
    costs = [at(share) for at, share in zip(placed.at, shares, strict=False)]
    layout = layout_of(changed, len(placed.seats), 0, 1)
    return fleet.candidate(BASELINES[scheme](costs, placed.links), layout, placed, shares)


def _separated(fleet: Fleet, size: int) -> Iterator[Candidate]:
    """Find the fastest order and number of micro-batches for every mode that is asked for and every
    number of FC workers that fits."""
    first = fleet.placed(range(size)).at[0]
    for mode in modes(fleet.options, first):
        for fc_workers in fc_workers_tried(fleet.options, size, mode):
            dedicated = fc_workers if mode[1] == "dedicated" else 0
            candidates = [
                candidate
                for placed in fleet.orders(dedicated)
                for candidate in _with_micro_batches(fleet, mode, fc_workers, placed)
            ]
            if candidates:
                yield _fastest(candidates)


def _with_micro_batches(
    fleet: Fleet, mode: Mode, fc_workers: int, placed: Placed
) -> Iterator[Candidate]:
    """Predict a mode on nodes in an order, with each number of micro-batches that fits."""
    parallel, placement = mode
    conv_workers = len(placed.seats) - (fc_workers if placement == "dedicated" else 0)
    shares = fleet.shares(placed, conv_workers, separated=True)
    wanted = fleet.options.micro_batches
    for number in MICRO_BATCHES if wanted == "auto" else (wanted,):
        if number > min(shares):
            continue
        layout = separated_layout(
            conv_workers, fc_workers, number, fc_parallel=parallel, fc_placement=placement
        )
        predicted = _prediction(fleet.options, mode, layout, placed, shares)
        yield fleet.candidate(predicted, layout, placed, shares)


def _prediction(
    options: Options, mode: Mode, layout: Layout, placed: Placed, shares: Sequence[int]
) -> Prediction:
    """Predict layer separation, by the recurrence if there is one, or else by the simulator."""
    if mode == PUBLISHED_MODE:
        return recurrence.separated(placed.at, shares, layout, placed.links)
    played = played_plan(with_shares(options, shares), layout, placed.at, placed.links)
    return Prediction(
        scheme="stanza",
        fc_workers=len(layout.ranks("fc")),
        micro_batches=layout.micro_batches,
        fc_parallel=layout.fc_parallel,
        fc_placement=layout.fc_placement,
        step_s=played.step_s,
        samples=played.samples,
        resources=played.resources(placed.links),
    )


def _fastest(candidates: Sequence[Candidate]) -> Candidate:
    """Return the fastest candidate that fits the memory of its nodes, or an earlier one where the
    gain is not worth it; the first of all where none fits."""
    best, *others = [one for one in candidates if one.fault is None] or candidates[:1]
    for one in others:
        if one.prediction.samples_per_s > best.prediction.samples_per_s * WORTH_IT:
            best = one
    return best


def _is_asked_for(options: Options, prediction: Prediction) -> bool:
    """Whether the options leave this to be chosen."""
    if options.scheme != "stanza":
        return prediction.scheme == options.scheme_name
    if prediction.scheme != "stanza":
        return options.fc_workers in (AUTO, 0)
    return options.fc_workers in (AUTO, prediction.fc_workers)


def _chosen(fleet: Fleet, size: int, every: Sequence[Candidate]) -> tuple[Candidate, str]:
    """Choose the candidate to run, and say why. It may be one whose nodes have too little memory,
    if no other is asked for.

    Raises:
        InputError: more FC workers or micro-batches are asked for than fit.
    """
    options = fleet.options
    wanted = [one for one in every if _is_asked_for(options, one.prediction)]
    fitting = [one for one in wanted if one.fault is None]
    equal = dataclasses.replace(options, batch_shares=EQUAL)
    if options.scheme != "stanza" and not wanted:
        layout_of(equal, size, 0, 1)  # says what does not fit
    if options.scheme != "stanza" or (wanted and not fitting):
        return wanted[0], "as given"
    prediction, reason = choose(equal, size, [one.prediction for one in fitting])
    (best,) = [one for one in fitting if one.prediction is prediction]
    if best.prediction.fc_workers:
        kinds = dict.fromkeys(best.placed.seats[rank].kind for rank in best.layout.ranks("fc"))
        reason += f"; FC workers on {' and '.join(kinds)}"
    return best, reason
