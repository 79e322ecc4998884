"""A table of what all ranks of a hanging run do, and the rank for which they wait.

rank  role  operation                                  peers  since
0     conv  gradient (4,000 bytes) from rank 2 (fc)    2      14:03:22 (120 s)
1     conv  gradient (4,000 bytes) from rank 2 (fc)    2      14:03:22 (120 s)
2     fc    silent; before: computing                  -      14:03:20 (122 s)
everybody waits for rank 2 (fc), which is silent: it is stopped or dead, or its network is cut
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["waiting", "busy", "silent"]
WHY = {
    "silent": "silent: stopped or dead, or the network is cut",
    "busy": "not waiting: it computes, sleeps or hangs by itself",
}


@dataclass(frozen=True, kw_only=True)
class Doing:
    """What one rank does."""

    role: str
    """Its role in the run."""
    state: State
    """waiting: for other ranks. busy: with something else. silent: it does not answer."""
    operation: str
    """What it waits for, or does, in words."""
    peers: tuple[int, ...]
    """The ranks for which it waits."""
    since: float
    """When that began, in seconds on this rank's own clock (time.time)."""


def waited_for(ranks: Sequence[Doing]) -> list[int]:
    """Find the ranks for which, in the end, all others wait; none if they wait for each other in a
    ring.

    Waits form chains: rank 0 waits for rank 1, which waits for rank 2, which computes. Rank 2 is
    the end of the chain. Ranks that wait in the same operation, such as a barrier, do not wait for
    each other. If there are silent ranks at the ends of chains, only those are returned: they are
    probably why the others do not go on.
    """
    reached: set[int] = set()
    pending = [rank for rank, doing in enumerate(ranks) if doing.state == "waiting"]
    while pending:
        doing = ranks[pending.pop()]
        together = {p for p in doing.peers if ranks[p].operation == doing.operation}
        together = {p for p in together if ranks[p].state == "waiting"}
        peers = set(doing.peers) - together - reached
        reached |= peers
        pending += [rank for rank in peers if ranks[rank].state == "waiting"]
    for state in ("silent", "busy"):
        ends = [rank for rank, doing in enumerate(ranks) if doing.state == state]
        if ends:
            return [rank for rank in ends if rank in reached] or ends
    return []


def cycle(ranks: Sequence[Doing]) -> list[int]:
    """Find a ring of ranks of which each waits for the next; empty if there is none. The first one
    stands at the end again.

    The first one stands at the end again.
    """
    for start in range(len(ranks)):
        path = [start]
        while ranks[path[-1]].state == "waiting" and ranks[path[-1]].peers:
            following = ranks[path[-1]].peers[0]
            if following in path:
                return [*path[path.index(following) :], following]
            path.append(following)
    return []


def table(ranks: Sequence[Doing], now: float) -> str:
    """Write a table with a line for every rank; its last line names the ranks that all wait for.

    Args:
        now: the present time, as `Doing.since`.
    """
    rows = [("rank", "role", "operation", "peers", "since")]
    for rank, doing in enumerate(ranks):
        when = time.strftime("%H:%M:%S", time.localtime(doing.since))
        since = f"{when} ({max(0.0, now - doing.since):.0f} s)"
        rows.append((str(rank), doing.role, doing.operation, _peers(doing, ranks), since))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, verdict(ranks)])


def _peers(doing: Doing, ranks: Sequence[Doing]) -> str:
    """The ranks that a rank waits for, as a cell of the table."""
    if len(doing.peers) == len(ranks) - 1 > 2:
        return "all"
    return " ".join(map(str, doing.peers)) or "-"


def verdict(ranks: Sequence[Doing]) -> str:
    """Write a sentence that names the ranks that all wait for, and what is wrong with them."""

    def name(rank: int) -> str:
        return f"rank {rank} ({ranks[rank].role})"

    ends = waited_for(ranks)
    if not ends:
        ring = cycle(ranks)
        text = " waits for ".join(map(name, ring))
        return f"ranks wait for each other: {text or 'in operations that do not match'}"
    state = ranks[ends[0]].state
    answer = [rank for rank, doing in enumerate(ranks) if doing.state != "silent"]
    if len(answer) == 1 and len(ranks) > 2:
        alone = name(answer[0])
        return f"no other rank answers {alone}: its network is cut, or all others are gone"
    verb = "is" if len(ends) == 1 else "are"
    return f"everybody waits for {', '.join(map(name, ends))}, which {verb} {WHY[state]}"
