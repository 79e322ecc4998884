"""One clock for the spans of all ranks: how far the clock of each rank is from that of rank 0.

Ranks of one machine share a clock. The clocks of several machines differ, so every rank asks rank 0
for its time, as NTP does:

    rank 3    asked ------------------- heard          on its own clock
                    \\               /
    rank 0           ---- answered --                  on the clock of rank 0

The answer was most likely given half-way between asked and heard, and the error is at most half of
the round trip. The exchange with the shortest round trip counts.
"""

import time

import torch
import torch.distributed as dist

from systems.network.distributed import World

EXCHANGES = 16


def behind_rank_0_ns(world: World) -> int:
    """Measure how many nanoseconds must be added to `time.time_ns()` of this rank to get that of
    rank 0. It is 0 where the clocks cannot be told apart.

    It is 0 where the clocks cannot be told apart. All ranks must call this together.
    """
    mine = 0
    with world.meeting("the comparison of clocks"):
        group = world.everyone
        if world.backend == "nccl":  # over which the host does not know when a message is there
            group = dist.new_group(backend="gloo", timeout=world.backend_timeout)
        for rank in range(1, world.world_size):
            if world.rank == 0:
                _answer(group, rank)
            elif world.rank == rank:
                mine = _ask(group)
    return mine


def _answer(group: dist.ProcessGroup | None, rank: int) -> None:
    """Answer one rank, as rank 0, with the present time."""
    now = torch.zeros(1, dtype=torch.int64)
    for _ in range(EXCHANGES):
        dist.recv(now, rank, group)
        dist.send(now.fill_(time.time_ns()), rank, group)


def _ask(group: dist.ProcessGroup | None) -> int:
    """The clock of rank 0 minus that of this rank, in nanoseconds."""
    answer = torch.zeros(1, dtype=torch.int64)
    exchanges: list[tuple[int, int]] = []
    for _ in range(EXCHANGES):
        asked_ns = time.time_ns()
        dist.send(answer, 0, group)
        dist.recv(answer, 0, group)
        heard_ns = time.time_ns()
        exchanges.append((heard_ns - asked_ns, int(answer.item()) - (asked_ns + heard_ns) // 2))
    round_trip_ns, ahead_ns = min(exchanges)
    return ahead_ns if abs(ahead_ns) > round_trip_ns / 2 else 0
