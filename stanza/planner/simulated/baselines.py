"""Writes the steps of the baselines as tasks: DDP, and parameter servers."""

from collections.abc import Sequence

from stanza.planner.costs import Costs
from stanza.planner.simulated.steps import STEPS, Simulated, played, ring_backward, segments, stream
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from systems.clusters.cluster import Link
from systems.simulate import Program


def ddp(cost: Costs, workers: int, link: Link) -> Simulated:
    """Play DDP: forward passes, then backward passes in which full buckets are all-reduced."""
    program, ends = Program(link.latency_s), list[int]()
    for _ in range(STEPS):
        starts = _forward(program, cost, workers, ends[-1:])
        ends.append(ring_backward(program, cost.backward, range(workers), starts, "backward"))
    return played(program, ends, workers * cost.batch_size, link)


def _forward(program: Program, cost: Costs, workers: int, after: Sequence[int]) -> list[int]:
    """Add every worker's forward pass of the whole model, which starts after these tasks."""
    seconds = cost.conv_forward_s + cost.fc_forward_s
    return [
        program.compute(stream(rank), seconds, name="forward", after=after)
        for rank in range(workers)
    ]


def ps_dedicated(
    cost: Costs, workers: int, servers: int, link: Link, *, pipelined: bool
) -> Simulated:
    """Play dedicated servers.

    If `pipelined`, every bucket is pushed as soon as the backward pass has filled it, and pulled as
    soon as the server has it from all workers. Otherwise the whole model is one bucket.
    """
    least = SMALLEST_MESSAGE_BYTES * servers if pipelined else float("inf")
    buckets = segments(cost.backward, least)
    program, ends = Program(link.latency_s), list[int]()
    for _ in range(STEPS):
        now = _forward(program, cost, workers, ends[-1:])
        pushed: dict[tuple[int, int], int] = {}  # a pair's messages follow one another
        pulled: dict[tuple[int, int], int] = {}
        for seconds, size in buckets:
            now = [
                program.compute(stream(rank), seconds, name="backward", after=[before])
                for rank, before in enumerate(now)
            ]
            for server in range(workers, workers + servers):
                _serve(program, now, server, size / servers, pushed, pulled)
        ends.append(program.join([*now, *pulled.values()], name="step"))
    return played(program, ends, workers * cost.batch_size, link)


def _serve(
    program: Program,
    ready: Sequence[int],
    server: int,
    size_bytes: float,
    pushed: dict[tuple[int, int], int],
    pulled: dict[tuple[int, int], int],
) -> None:
    """Add one bucket's messages between all workers and one server.

    Args:
        ready: each worker's task after which it may push.
        pushed: the last push of every pair of worker and server, which the next one must follow;
            is updated.
        pulled: the same for pulls.
    """
    for rank, before in enumerate(ready):
        earlier = [pushed[rank, server]] if (rank, server) in pushed else []
        pushed[rank, server] = program.flow(
            rank, server, size_bytes, name="push", after=[before, *earlier]
        )
    updated = program.join([pushed[rank, server] for rank in range(len(ready))], name="update")
    for rank in range(len(ready)):
        earlier = [pulled[rank, server]] if (rank, server) in pulled else []
        pulled[rank, server] = program.flow(
            server, rank, size_bytes, name="pull", after=[updated, *earlier]
        )


def ps_sharded(cost: Costs, workers: int, link: Link) -> Simulated:
    """Play pipelined servers, one beside every worker. Pushes and pulls share the interfaces."""
    buckets = segments(cost.backward, SMALLEST_MESSAGE_BYTES * workers)
    program, ends, ranks = Program(link.latency_s), list[int](), range(workers)
    for _ in range(STEPS):
        now = _forward(program, cost, workers, ends[-1:])
        pushes, pulls = list[int](), list[int]()
        for seconds, size in buckets:
            now = [
                program.compute(stream(rank), seconds, name="backward", after=[before])
                for rank, before in enumerate(now)
            ]
            part = size * (workers - 1) / workers
            pushes.append(
                program.exchange(ranks, part, messages=1, name="push", after=[*now, *pushes[-1:]])
            )
            pulls.append(
                program.exchange(
                    ranks, part, messages=1, name="pull", after=[pushes[-1], *pulls[-1:]]
                )
            )
        ends.append(program.join([*now, *pulls[-1:]], name="step"))
    return played(program, ends, workers * cost.batch_size, link)
