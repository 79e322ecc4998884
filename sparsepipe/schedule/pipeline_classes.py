"""The classes of ranks that cannot differ in a pipeline, and the messages between them.

What that means is explained in `systems.rank_classes`. For the replicas of a stage it takes more
than equal shares and equal devices: they must also share samples with equally many, equally placed
replicas of the stages before and behind. Three replicas with a third each, before two with a half
each, are of two kinds, since the one in the middle serves both:

    shares   |---- 0 ----|---- 1 ----|---- 2 ----|       classes {0, 2}, {1}
             |------- 3 -------|------- 4 -------|               {3, 4}

The classes are found by colour refinement: ranks begin with a colour for what they compute, and
those of one colour part as long as they have different messages to or from some colour. Whenever a
colour is divided, all parts but the largest get new ones, and only the neighbours of the ranks with
new colours are looked at again; that makes O(messages * log(ranks)) steps in all (J. Hopcroft, "An
n log n algorithm for minimizing states in a finite automaton", 1971, uses the same rule).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from sparsepipe.schedule.costs import StageCost, overlaps
from sparsepipe.schedule.lists import StageRanks
from systems.rank_classes import RankClass, rank_classes

ROUNDING = 1e-11
"""Parts of the samples are equal if a row of others, no further from each other, joins them: sums
of the shares of thousands of replicas are rounded by less."""
Label = tuple[int, bool, int, bool]
"""A message of a micro-batch, as one end sees it: the cut that it crosses, whether this end is
before the cut, the number of the part of the samples, whether both ends are one rank."""
Seen = defaultdict[int, list[tuple[int, Label]]]
"""By rank: its messages, each with the colour of the rank at the other end."""


class Peer(NamedTuple):
    """A rank of a neighbouring stage that another one shares samples with."""

    rank: int
    part: float
    """The part of all samples that they have in common."""
    number: int
    """That of the part: equal ones have the same."""


Peers = dict[tuple[int, int, int], list[Peer]]
"""By (stage, neighbouring stage, rank): the neighbour's ranks."""


@dataclass(frozen=True)
class Messages:
    """The messages of a micro-batch from one class of ranks to another, over one cut."""

    target: int
    """The played rank of the class that receives them."""
    part: float
    """The part of the samples in each of them."""
    sent: int
    """How many of them each sender sends."""
    received: int
    """How many of them each receiver receives."""
    own: bool
    """Whether they stay on the rank, which holds the stages on both sides of the cut."""


@dataclass(frozen=True)
class PipelineClasses:
    """The classes, and what they send to each other. A class goes by its played rank."""

    classes: Sequence[RankClass]
    """All classes, by their played ranks."""
    of_stage: Sequence[Sequence[int]]
    """The classes that hold each stage, in the order of its replicas."""
    messages: dict[tuple[int, int, int], list[Messages]]
    """By (stage, neighbouring stage, class): the messages from the first to the second."""
    expected: dict[tuple[int, int, int], int]
    """By the same of a receiver, (its stage, the sender's stage, class): from how many lists of
    messages it gets some."""


def pipeline_classes(
    stages: StageRanks, costs: Sequence[StageCost], *, every_rank: bool
) -> PipelineClasses:
    """The classes of a pipeline's ranks.

    Args:
        stages: the ranks that hold each stage.
        costs: what a micro-batch costs at each stage.
        every_rank: every rank is a class of its own.
    """
    peers = _peers(stages, costs)
    work: defaultdict[int, list[object]] = defaultdict(list)
    for stage, (ranks, cost) in enumerate(zip(stages, costs, strict=True)):
        rows = zip(ranks, cost.forward_s, cost.backward_s, cost.shares, strict=True)
        for rank, *computed in rows:
            work[rank].append((stage, *computed, rank if every_rank else None))
    colours = {
        rank: number
        for number, one in enumerate(rank_classes(work, lambda rank: tuple(work[rank])))
        for rank in one.ranks
    }
    if not every_rank:
        _refine(colours, peers)
    classes = rank_classes(sorted(colours), colours.__getitem__)
    played = {rank: one.played for one in classes for rank in one.ranks}
    messages = {
        key: _grouped(key, found, peers, played)
        for key, found in peers.items()
        if played[key[2]] == key[2]
    }
    return PipelineClasses(
        classes=classes,
        of_stage=[[rank for rank in ranks if played[rank] == rank] for ranks in stages],
        messages=messages,
        expected={
            key: len({_key(peer, key[2], played) for peer in peers[key]}) for key in messages
        },
    )


def _peers(stages: StageRanks, costs: Sequence[StageCost]) -> Peers:
    """With whom every rank shares samples."""
    found: dict[tuple[int, int, int], list[tuple[int, float]]] = {}
    for stage, ranks in enumerate(stages):
        for other in (stage - 1, stage + 1):
            if not 0 <= other < len(stages):
                continue
            common = overlaps(costs[stage].shares, costs[other].shares)
            for rank, parts in zip(ranks, common, strict=True):
                found[stage, other, rank] = [(stages[other][peer], part) for peer, part in parts]
    numbers = _numbers(part for pairs in found.values() for _, part in pairs)
    return {
        key: [Peer(rank, part, numbers[part]) for rank, part in pairs]
        for key, pairs in found.items()
    }


def _numbers(parts: Iterable[float]) -> dict[float, int]:
    """Number parts of the samples in ascending order, equal ones alike. (Rounded to digits, equal
    ones may come to lie on both sides of a border between two digits.)"""
    ascending = sorted(set(parts))
    larger = (after - before > ROUNDING for before, after in pairwise(ascending))
    return dict(zip(ascending, accumulate(larger, initial=0), strict=False))


def _key(peer: Peer, rank: int, played: dict[int, int]) -> tuple[int, int, bool]:
    """What messages between two classes have in common: the class at the other end, the number of
    the part of the samples, whether they stay on a rank."""
    return played[peer.rank], peer.number, peer.rank == rank


def _grouped(
    key: tuple[int, int, int], found: Sequence[Peer], peers: Peers, played: dict[int, int]
) -> list[Messages]:
    """The messages of a rank to a neighbouring stage, those together that cannot differ."""
    stage, other, rank = key
    sent = Counter(_key(peer, rank, played) for peer in found)
    parts: dict[tuple[int, int, bool], float] = {}
    for peer in found:
        parts.setdefault(_key(peer, rank, played), peer.part)
    messages = []
    for (target, number, own), part in parts.items():
        back = (_key(peer, target, played) for peer in peers[other, stage, target])
        received = sum(same == (rank, number, own) for same in back)
        messages.append(Messages(target, part, sent[target, number, own], received, own))
    return messages


def _refine(colours: dict[int, int], peers: Peers) -> None:
    """Divide colours until ranks of one colour have the same messages with every colour."""
    edges: defaultdict[int, list[tuple[int, Label]]] = defaultdict(list)
    for (stage, other, rank), found in peers.items():
        for peer in found:
            label = (min(stage, other), stage > other, peer.number, peer.rank == rank)
            edges[rank].append((peer.rank, label))
    members: defaultdict[int, set[int]] = defaultdict(set)
    for rank, colour in colours.items():
        members[colour].add(rank)
    changed = list(colours)
    while changed:
        seen: Seen = defaultdict(list)
        for rank in changed:
            for other_end, label in edges[rank]:
                seen[other_end].append((colours[rank], label))
        changed = _divide(colours, members, seen)


def _divide(colours: dict[int, int], members: dict[int, set[int]], seen: Seen) -> list[int]:
    """Divide colours by what their ranks see; returns the ranks that got new ones.

    Args:
        members: the ranks of each colour; is updated, as `colours` is.
        seen: the messages of ranks with the colours that are new.
    """
    groups: defaultdict[int, dict[tuple[tuple[int, Label], ...], set[int]]] = defaultdict(dict)
    for rank, messages in seen.items():
        groups[colours[rank]].setdefault(tuple(sorted(messages)), set()).add(rank)
    changed: list[int] = []
    for colour, alike in groups.items():
        for part in alike.values():
            members[colour] -= part
        parts = sorted([members[colour], *alike.values()], key=len)
        members[colour] = parts.pop()  # the largest part keeps the colour
        for part in filter(None, parts):
            new = len(members)
            members[new] = part
            colours.update(dict.fromkeys(part, new))
            changed += part
    return changed
