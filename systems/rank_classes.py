"""Ranks that cannot differ in a simulation: one of them is played for all.

[Note: interchangeable ranks]
Most ranks of a large job do the same things at the same time, and playing them one by one finds the
same seconds again and again. Ranks are interchangeable, and make up a class, if all of this holds:

- they compute for equally long, in the same order: equally many samples on equal devices;
- they have equal links;
- each of them sends as much to as many ranks of every class, receives as much from as many, and
  takes part in the same collectives.

Then nothing distinguishes them, at no time: what starts one of them starts all of them, and as
their interfaces carry equally many equal transfers, max-min fairness gives all of these the same
rate. So it suffices to play one rank of each class. A transfer between two classes stands for those
of all their members, and counts at an interface as often as members use it:

    workers 0 .. 8, equal shares  --- push --->  servers 9, 10, 11
    played:  0 out, with 3 messages              9 in, with 9 messages

Ranks that do differ, be it by one sample, have classes of their own, down to one rank a class. What
is played then equals playing every rank, up to the rounding of sums: the tests hold it to that.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

PLAYED_ONE_BY_ONE = 64
"""Jobs of so few ranks gain nothing from classes: a command that leaves a trace plays every rank of
them, so that the trace shows each."""


@dataclass(frozen=True)
class RankClass:
    """Interchangeable ranks, see the note above."""

    ranks: tuple[int, ...]
    """Its members, ascending."""

    @property
    def played(self) -> int:
        """The member that is played for all."""
        return self.ranks[0]

    @property
    def count(self) -> int:
        """How many members it has."""
        return len(self.ranks)


def rank_classes(ranks: Iterable[int], key: Callable[[int], Hashable]) -> list[RankClass]:
    """The classes of ranks with equal keys, by their first members."""
    members: dict[Hashable, list[int]] = {}
    for rank in ranks:
        members.setdefault(key(rank), []).append(rank)
    return [RankClass(tuple(same)) for same in members.values()]


def titled(
    spans: Iterable[tuple[str, str, float, float]], classes: Sequence[RankClass]
) -> Iterator[tuple[str, str, float, float]]:
    """The spans of a trace, where the tracks of a rank that was played for others say so.

    Args:
        spans: (track, name, start, end), as `systems.simulate.Timeline.spans` gives them; a track
            is named "rank 3", or "rank 3 out".
    """
    titles = {
        f"rank {one.played}": f"rank {one.played} (and {one.count - 1} alike)"
        for one in classes
        if one.count > 1
    }
    for track, name, start_s, end_s in spans:
        word, number, *way = track.split(" ", 2)
        rank = f"{word} {number}"
        yield " ".join([titles.get(rank, rank), *way]), name, start_s, end_s
