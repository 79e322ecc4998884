"""One clock for the spans of all ranks: how far each rank's clock is from rank 0's.

Ranks of one machine share a clock. Those of others exchange messages with rank 0, as NTP does: the
exchange that took least time says most, and is off by half of that time at most.
"""

import time

import torch
import torch.distributed as dist

from systems.network.distributed import World

EXCHANGES = 16


def behind_rank_0_ns(world: World) -> int:
    """What to add to this rank's `time.time_ns()` to get rank 0's; 0 if no difference is seen.

    All ranks call this together.
    """
    mine = 0
    with world.meeting("the comparison of clocks"):
        for rank in range(1, world.world_size):
            if world.rank == 0:
                _answer(world, rank)
            elif world.rank == rank:
                mine = _ask(world)
    return mine


def _answer(world: World, rank: int) -> None:
    now = torch.zeros(1, dtype=torch.int64, device=world.device)
    for _ in range(EXCHANGES):
        dist.recv(now, rank)
        dist.send(now.fill_(time.time_ns()), rank)


def _ask(world: World) -> int:
    """Rank 0's clock minus this rank's."""
    answer = torch.zeros(1, dtype=torch.int64, device=world.device)
    found: list[tuple[int, int]] = []
    for _ in range(EXCHANGES):
        asked_ns = time.time_ns()
        dist.send(answer, 0)
        dist.recv(answer, 0)
        heard_ns = time.time_ns()
        found.append((heard_ns - asked_ns, int(answer.item()) - (asked_ns + heard_ns) // 2))
    round_trip_ns, ahead_ns = min(found)
    return ahead_ns if abs(ahead_ns) > round_trip_ns / 2 else 0
