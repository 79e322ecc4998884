"""Writes the steps of the baselines as tasks: DDP, and parameter servers."""

from collections.abc import Sequence

from stanza.planner.costs import Costs, CostsAt
from stanza.planner.simulated.steps import (
    STEPS,
    Network,
    Simulated,
    backward_tasks,
    buckets,
    played,
    ring_backward,
    stream,
)
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from systems.simulate import Program


def ddp(at: CostsAt, shares: Sequence[int], network: Network, *, steps: int = STEPS) -> Simulated:
    """Play DDP: forward passes, then backward passes in which full buckets are all-reduced.

    Args:
        at: the model's costs as a function of the batch.
        shares: the number of samples of each worker in a step.
        steps: how many steps are played.
    """
    program, ends, costs = Program(network.latency_s), list[int](), [at(share) for share in shares]
    backward, ranks = [cost.backward for cost in costs], range(len(shares))
    for _ in range(steps):
        starts = _forward(program, costs, ends[-1:])
        ends.append(ring_backward(program, backward, ranks, starts, "backward"))
    return played(program, ends, sum(shares), network)


def _forward(program: Program, costs: Sequence[Costs], after: Sequence[int]) -> list[int]:
    """Add every worker's forward pass of the whole model, which starts after these tasks."""
    return [
        program.compute(
            stream(rank), cost.conv_forward_s + cost.fc_forward_s, name="forward", after=after
        )
        for rank, cost in enumerate(costs)
    ]


def ps_dedicated(
    at: CostsAt,
    shares: Sequence[int],
    servers: int,
    network: Network,
    *,
    pipelined: bool,
    steps: int = STEPS,
) -> Simulated:
    """Play dedicated servers.

    If `pipelined`, every bucket is pushed as soon as the backward pass has filled it, and pulled as
    soon as the server has it from all workers. Otherwise the whole model is one bucket.
    """
    least = SMALLEST_MESSAGE_BYTES * servers if pipelined else float("inf")
    costs, workers = [at(share) for share in shares], len(shares)
    rows = buckets([cost.backward for cost in costs], least)
    program, ends = Program(network.latency_s), list[int]()
    for _ in range(steps):
        now = _forward(program, costs, ends[-1:])
        pushed: dict[tuple[int, int], int] = {}  # a pair's messages follow one another
        pulled: dict[tuple[int, int], int] = {}
        for row in rows:
            now = backward_tasks(program, row, range(workers), now, "backward")
            for server in range(workers, workers + servers):
                _serve(program, now, server, row[0][1] / servers, pushed, pulled)
        ends.append(program.join([*now, *pulled.values()], name="step"))
    return played(program, ends, sum(shares), network)


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


def ps_sharded(
    at: CostsAt, shares: Sequence[int], network: Network, *, steps: int = STEPS
) -> Simulated:
    """Play pipelined servers, one beside every worker. Pushes and pulls share the interfaces."""
    costs, workers = [at(share) for share in shares], len(shares)
    rows = buckets([cost.backward for cost in costs], SMALLEST_MESSAGE_BYTES * workers)
    program, ends, ranks = Program(network.latency_s), list[int](), range(workers)
    for _ in range(steps):
        now = _forward(program, costs, ends[-1:])
        pushes, pulls = list[int](), list[int]()
        for row in rows:
            now = backward_tasks(program, row, ranks, now, "backward")
            part = row[0][1] * (workers - 1) / workers
            pushes.append(
                program.exchange(ranks, part, messages=1, name="push", after=[*now, *pushes[-1:]])
            )
            pulls.append(
                program.exchange(
                    ranks, part, messages=1, name="pull", after=[pushes[-1], *pulls[-1:]]
                )
            )
        ends.append(program.join([*now, *pulls[-1:]], name="step"))
    return played(program, ends, sum(shares), network)
