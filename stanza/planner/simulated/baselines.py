"""Writes the steps of the baselines as tasks: DDP, and parameter servers."""

from collections.abc import Sequence

from stanza.planner.costs import Costs, CostsAt
from stanza.planner.simulated.steps import (
    STEPS,
    Simulated,
    backward_tasks,
    buckets,
    played,
    ring_backward,
    stream,
    worker_classes,
)
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from systems.clusters.cluster import Link
from systems.rank_classes import RankClass
from systems.simulate import Program


def ddp(at: CostsAt, shares: Sequence[int], link: Link, *, every_rank: bool = False) -> Simulated:
    """Play DDP: forward passes, then backward passes in which full buckets are all-reduced.

    Args:
        at: the model's costs as a function of the batch.
        shares: the number of samples of each worker in a step.
        every_rank: plays each rank. Otherwise workers with equally many samples, which cannot
            differ, are played once; the result is the same.
    """
    workers = worker_classes(shares, every_rank=every_rank)
    costs = [at(shares[one.played]) for one in workers]
    program, ends, backward = Program(link.latency_s), list[int](), [c.backward for c in costs]
    for _ in range(STEPS):
        starts = _forward(program, costs, workers, ends[-1:])
        ends.append(ring_backward(program, backward, workers, starts, "backward"))
    return played(program, ends, sum(shares), link, workers)


def _forward(
    program: Program, costs: Sequence[Costs], workers: Sequence[RankClass], after: Sequence[int]
) -> list[int]:
    """Add the forward pass of the whole model for each class of workers, after these tasks."""
    return [
        program.compute(
            stream(one.played), cost.conv_forward_s + cost.fc_forward_s, name="forward", after=after
        )
        for one, cost in zip(workers, costs, strict=True)
    ]


def ps_dedicated(
    at: CostsAt,
    shares: Sequence[int],
    servers: int,
    link: Link,
    *,
    pipelined: bool,
    every_rank: bool = False,
) -> Simulated:
    """Play dedicated servers, all of which have equal parts of the model and cannot differ.

    If `pipelined`, every bucket is pushed as soon as the backward pass has filled it, and pulled as
    soon as the server has it from all workers. Otherwise the whole model is one bucket. For the
    other arguments see `ddp`.
    """
    least = SMALLEST_MESSAGE_BYTES * servers if pipelined else float("inf")
    workers = worker_classes(shares, every_rank=every_rank)
    costs, ranks = [at(shares[one.played]) for one in workers], len(shares)
    alike = [RankClass(tuple(range(ranks, ranks + servers)))]
    if every_rank:
        alike = [RankClass((rank,)) for rank in alike[0].ranks]
    rows = buckets([cost.backward for cost in costs], least)
    program, ends = Program(link.latency_s), list[int]()
    for _ in range(STEPS):
        now = _forward(program, costs, workers, ends[-1:])
        pushed: dict[tuple[int, int], int] = {}  # a pair's messages follow one another
        pulled: dict[tuple[int, int], int] = {}
        for row in rows:
            now = backward_tasks(program, row, workers, now, "backward")
            for one in alike:
                _serve(program, workers, now, one, row[0][1] / servers, pushed, pulled)
        ends.append(program.join([*now, *pulled.values()], name="step"))
    return played(program, ends, sum(shares), link, [*workers, *alike])


def _serve(
    program: Program,
    workers: Sequence[RankClass],
    ready: Sequence[int],
    servers: RankClass,
    size_bytes: float,
    pushed: dict[tuple[int, int], int],
    pulled: dict[tuple[int, int], int],
) -> None:
    """Add one bucket's messages between all workers and one class of servers.

    Args:
        ready: the task of each class of workers after which it may push.
        pushed: the last push of every pair of classes, by their played ranks, which the next one
            must follow; is updated.
        pulled: the same for pulls.
    """
    server = servers.played
    for one, before in zip(workers, ready, strict=True):
        rank = one.played
        earlier = [pushed[rank, server]] if (rank, server) in pushed else []
        pushed[rank, server] = program.flow(
            rank,
            server,
            size_bytes,
            sent=servers.count,
            received=one.count,
            name="push",
            after=[before, *earlier],
        )
    updated = program.join([pushed[one.played, server] for one in workers], name="update")
    for one in workers:
        rank = one.played
        earlier = [pulled[rank, server]] if (rank, server) in pulled else []
        pulled[rank, server] = program.flow(
            server,
            rank,
            size_bytes,
            sent=one.count,
            received=servers.count,
            name="pull",
            after=[updated, *earlier],
        )


def ps_sharded(
    at: CostsAt, shares: Sequence[int], link: Link, *, every_rank: bool = False
) -> Simulated:
    """Play pipelined servers, one beside every worker. Pushes and pulls share the interfaces.

    For the arguments see `ddp`.
    """
    workers = worker_classes(shares, every_rank=every_rank)
    costs, ranks = [at(shares[one.played]) for one in workers], len(shares)
    rows = buckets([cost.backward for cost in costs], SMALLEST_MESSAGE_BYTES * ranks)
    program, ends, nodes = Program(link.latency_s), list[int](), [one.played for one in workers]
    for _ in range(STEPS):
        now = _forward(program, costs, workers, ends[-1:])
        pushes, pulls = list[int](), list[int]()
        for row in rows:
            now = backward_tasks(program, row, workers, now, "backward")
            part = row[0][1] * (ranks - 1) / ranks
            pushes.append(
                program.exchange(nodes, part, messages=1, name="push", after=[*now, *pushes[-1:]])
            )
            pulls.append(
                program.exchange(
                    nodes, part, messages=1, name="pull", after=[pushes[-1], *pulls[-1:]]
                )
            )
        ends.append(program.join([*now, *pulls[-1:]], name="step"))
    return played(program, ends, sum(shares), link, workers)
