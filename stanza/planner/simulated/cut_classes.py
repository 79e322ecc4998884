"""The classes of CONV workers and FC workers that cannot differ in a step of layer separation.

What that means is explained in `systems.rank_classes`. FC workers are in one class if they serve
equally many CONV workers with equally many samples each; where they hold columns they all serve
everybody. CONV workers are in one class if their FC workers are, they have equally many samples,
and either all or none of them are FC workers as well.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stanza.layout import Layout
from systems.rank_classes import RankClass, rank_classes


@dataclass(frozen=True, kw_only=True)
class CutClasses:
    """The classes, and who sends to whom over the cut. Classes go by their numbers in the lists."""

    conv: Sequence[RankClass]
    """The classes of CONV workers."""
    fc: Sequence[RankClass]
    """The classes of FC workers."""
    shares: Sequence[int]
    """The samples of a CONV worker of each class."""
    fc_of: Sequence[Mapping[int, int]]
    """For each class of CONV workers: to how many FC workers of each class each of them belongs."""
    conv_of: Sequence[Mapping[int, int]]
    """For each class of FC workers: how many CONV workers of each class each of them serves."""
    sent: Sequence[Mapping[int, int]]
    """As `fc_of`, without the FC worker on the same rank: the messages that a CONV worker sends."""
    received: Sequence[Mapping[int, int]]
    """For each class of CONV workers: from how many of them an FC worker of each class gets a
    message, itself left out."""

    @property
    def all(self) -> list[RankClass]:
        """Every class once. Where a class has both roles, it is among the CONV workers."""
        conv = {one.played for one in self.conv}
        return [*self.conv, *(one for one in self.fc if one.played not in conv)]


def cut_classes(layout: Layout, shares: Sequence[int], *, every_rank: bool) -> CutClasses:
    """The classes of a layout.

    Args:
        shares: the number of samples of each CONV worker.
        every_rank: every rank is a class of its own.
    """
    conv_ranks, fc_ranks = layout.ranks("conv"), layout.ranks("fc")
    share = dict(zip(conv_ranks, shares, strict=True))
    both = set(conv_ranks) & set(fc_ranks)
    columns = layout.fc_parallel == "columns"

    # FC workers first: whom each serves is in the layout, and needs no classes of CONV workers.
    def served(rank: int) -> object:
        """Return what distinguishes an FC worker from others."""
        if every_rank:
            return rank
        own = share[rank] if rank in both else None
        return own if columns else (own, tuple(share[peer] for peer in layout.conv_of(rank)))

    fc = rank_classes(fc_ranks, served)
    class_of_fc = {rank: number for number, one in enumerate(fc) for rank in one.ranks}

    # Then CONV workers, which differ where their FC workers are of different classes.
    def place(rank: int) -> object:
        """Return what distinguishes a CONV worker from others."""
        if every_rank:
            return rank
        served_by = None if columns else class_of_fc[layout.fc_of(rank)[0]]
        return share[rank], rank in both, served_by

    conv = rank_classes(conv_ranks, place)
    class_of_conv = {rank: number for number, one in enumerate(conv) for rank in one.ranks}
    fc_of = [Counter(class_of_fc[peer] for peer in layout.fc_of(one.played)) for one in conv]
    conv_of = [Counter(class_of_conv[peer] for peer in layout.conv_of(one.played)) for one in fc]
    # Who is both sends itself a slice, which crosses no link: below it is taken off the messages.
    own = [(class_of_conv[one.played], n) for n, one in enumerate(fc) if one.played in both]
    return CutClasses(
        conv=conv,
        fc=fc,
        shares=[share[one.played] for one in conv],
        fc_of=fc_of,
        conv_of=conv_of,
        sent=[fc_of[c] - Counter(f for mine, f in own if mine == c) for c in range(len(conv))],
        received=[
            {f: messages for f in fc_of[c] if (messages := conv_of[f][c] - ((c, f) in own))}
            for c in range(len(conv))
        ],
    )
