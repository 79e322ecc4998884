"""Writes the steps of the baselines as tasks: DDP, and parameter servers."""

from collections.abc import Sequence

from stanza.planner.costs import Costs, CostsAt
from stanza.planner.simulated.steps import (
    STEPS,
    Network,
    Simulated,
    backward_tasks,
    buckets,
    memory_of,
    played,
    ring_backward,
    stream,
    updates,
    work,
)
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from systems.clusters.host import Host
from systems.simulate import Program


def ddp(at: CostsAt, shares: Sequence[int], network: Network) -> Simulated:
    """Play DDP: forward passes, then backward passes in which full buckets are all-reduced.

    Args:
        at: the model's costs as a function of the batch.
        shares: the number of samples of each worker in a step.
    """
    program, ends, costs = Program(network.latency_s), list[int](), [at(share) for share in shares]
    backward, ranks = [cost.backward for cost in costs], range(len(shares))
    memory = memory_of(network)
    for _ in range(STEPS):
        starts = _forward(program, memory, costs, ends[-1:])
        reduced = ring_backward(program, memory, backward, ranks, starts, "backward")
        updated = updates(program, memory, backward, ranks, [reduced])
        ends.append(program.join(updated, name="step"))
    return played(program, ends, sum(shares), network)


def _forward(
    program: Program, memory: Host, costs: Sequence[Costs], after: Sequence[int]
) -> list[int]:
    """Add every worker's forward pass of the whole model, which starts after these tasks."""
    seconds = [memory.step_s + cost.conv_forward_s + cost.fc_forward_s for cost in costs]
    return [
        program.compute(stream(rank), each, name="forward", after=after)
        for rank, each in enumerate(seconds)
    ]


def ps_dedicated(
    at: CostsAt, shares: Sequence[int], servers: int, network: Network, *, pipelined: bool
) -> Simulated:
    """Play dedicated servers.

    If `pipelined`, every bucket is pushed as soon as the backward pass has filled it, and pulled as
    soon as the server has it from all workers. Otherwise the whole model is one bucket.
    """
    costs, workers = [at(share) for share in shares], len(shares)
    rows = buckets([cost.backward for cost in costs], SMALLEST_MESSAGE_BYTES * servers)
    messages = 1
    if not pipelined:  # what are several messages is one bucket
        messages = sum(1 for row in rows if row[0][1])
        rows = buckets([cost.backward for cost in costs], float("inf"))
    memory = memory_of(network)
    program, ends = Program(network.latency_s), list[int]()
    for _ in range(STEPS):
        now = _forward(program, memory, costs, ends[-1:])
        pushed: dict[tuple[int, int], int] = {}  # a pair's messages follow one another
        pulled: dict[tuple[int, int], int] = {}
        arrived: list[list[int]] = []
        for row in rows:
            now = backward_tasks(program, row, range(workers), now, "backward")
            now = _copies(program, memory, row[0][1], [[task] for task in now], "pack")
            for server in range(workers, workers + servers):
                slice_bytes = row[0][1] / servers
                _serve(program, memory, now, server, slice_bytes, messages, pushed, pulled)
            arrived.append(list(pulled.values()))
        for row, last_pulls in zip(rows, arrived, strict=True):
            of_rank = [last_pulls[rank::workers] for rank in range(workers)]
            after = [[task, *theirs] for task, theirs in zip(now, of_rank, strict=True)]
            now = _copies(program, memory, row[0][1], after, "load")
        ends.append(program.join([*now, *pulled.values()], name="step"))
    return played(program, ends, sum(shares), network)


def _copies(
    program: Program, memory: Host, size_bytes: float, after: Sequence[Sequence[int]], name: str
) -> list[int]:
    """Add a copy of a bucket on every worker."""
    seconds = memory.copy.seconds(size_bytes) if size_bytes else 0.0
    return [work(program, stream(rank), seconds, name, tasks) for rank, tasks in enumerate(after)]


def _serving_s(memory: Host, size_bytes: float, workers: int) -> float:
    """The core seconds of a server's sum and update of its slice of a bucket."""
    if not size_bytes:
        return 0.0
    return memory.add.seconds(size_bytes) * (workers - 1) + memory.update.seconds(size_bytes)


def _serve(
    program: Program,
    memory: Host,
    ready: Sequence[int],
    server: int,
    size_bytes: float,
    messages: int,
    pushed: dict[tuple[int, int], int],
    pulled: dict[tuple[int, int], int],
) -> None:
    """Add one bucket's messages between all workers and one server, and what it does to it.

    Args:
        ready: each worker's task after which it may push.
        messages: how many messages the bucket is.
        pushed: the last push of every pair of worker and server, which the next one must follow;
            is updated.
        pulled: the same for pulls.
    """
    for rank, before in enumerate(ready):
        earlier = [pushed[rank, server]] if (rank, server) in pushed else []
        pushed[rank, server] = program.flow(
            rank, server, size_bytes, count=messages, name="push", after=[before, *earlier]
        )
    all_pushed = [pushed[rank, server] for rank in range(len(ready))]
    seconds = _serving_s(memory, size_bytes, len(ready))
    updated = work(program, stream(server), seconds, "update", all_pushed)
    for rank in range(len(ready)):
        earlier = [pulled[rank, server]] if (rank, server) in pulled else []
        pulled[rank, server] = program.flow(
            server, rank, size_bytes, count=messages, name="pull", after=[updated, *earlier]
        )


def ps_sharded(at: CostsAt, shares: Sequence[int], network: Network) -> Simulated:
    """Play pipelined servers, one beside every worker. Pushes and pulls share the interfaces."""
    costs, workers = [at(share) for share in shares], len(shares)
    rows = buckets([cost.backward for cost in costs], SMALLEST_MESSAGE_BYTES * workers)
    memory, others = memory_of(network), len(shares) - 1
    program, ends, ranks = Program(network.latency_s), list[int](), range(workers)
    for _ in range(STEPS):
        now = _forward(program, memory, costs, ends[-1:])
        pushes, pulls = list[int](), list[int]()
        for row in rows:
            size_bytes = row[0][1]
            now = backward_tasks(program, row, ranks, now, "backward")
            now = _copies(program, memory, size_bytes, [[task] for task in now], "pack")
            part = size_bytes * others / workers
            after = [*now, *pushes[-1:]]
            pushes.append(
                program.exchange(ranks, part, messages=1, peers=others, name="push", after=after)
            )
            # What a rank sends to its own server and back is copied four times instead.
            slice_bytes = size_bytes / workers
            served_s = _serving_s(memory, slice_bytes, workers)
            served_s += 4 * memory.copy.seconds(slice_bytes) if size_bytes else 0.0
            served = [
                work(program, f"server {rank}", served_s, "update", pushes[-1:]) for rank in ranks
            ]
            after = [*served, *pulls[-1:]]
            pulls.append(
                program.exchange(ranks, part, messages=1, peers=others, name="pull", after=after)
            )
        for row, pull in zip(rows, pulls, strict=True):
            now = _copies(program, memory, row[0][1], [[task, pull] for task in now], "load")
        ends.append(program.join([*now, *pulls[-1:]], name="step"))
    return played(program, ends, sum(shares), network)
