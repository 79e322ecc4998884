"""What all ranks of a hanging run do, as one table, and whom they wait for.

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
    """What one rank does: waits for peers, something else (busy), or nobody knows (silent)."""

    role: str
    state: State
    operation: str
    peers: tuple[int, ...]
    since: float
    """Seconds on the clock of time.time(), the rank's own."""


def waited_for(ranks: Sequence[Doing]) -> list[int]:
    """The ranks at the end of every chain of waits; none where they wait for each other.

    Ranks in one operation, such as a barrier, do not wait for each other in it. Silent ones go
    before busy ones: nothing else can be known of them.
    """
    reached: set[int] = set()
    pending = [rank for rank, doing in enumerate(ranks) if doing.state == "waiting"]
    while pending:
        doing = ranks[pending.pop()]
        together = {p for p in doing.peers if ranks[p].operation == doing.operation}
        together = {p for p in together if ranks[p].state == "waiting"}
        found = set(doing.peers) - together - reached
        reached |= found
        pending += [rank for rank in found if ranks[rank].state == "waiting"]
    for state in ("silent", "busy"):
        ends = [rank for rank, doing in enumerate(ranks) if doing.state == state]
        if ends:
            return [rank for rank in ends if rank in reached] or ends
    return []


def cycle(ranks: Sequence[Doing]) -> list[int]:
    """Ranks of which each waits for the next, the first one again at the end; none if there is no
    such ring."""
    for start in range(len(ranks)):
        path = [start]
        while ranks[path[-1]].state == "waiting" and ranks[path[-1]].peers:
            following = ranks[path[-1]].peers[0]
            if following in path:
                return [*path[path.index(following) :], following]
            path.append(following)
    return []


def table(ranks: Sequence[Doing], now: float) -> str:
    """A line for every rank, and a last one that names whom everybody waits for."""
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
    if len(doing.peers) == len(ranks) - 1 > 2:
        return "all"
    return " ".join(map(str, doing.peers)) or "-"


def verdict(ranks: Sequence[Doing]) -> str:
    """Whom everybody waits for, in a sentence."""

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
