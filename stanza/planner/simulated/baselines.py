"""Writes the steps of the baselines as tasks: DDP, and parameter servers."""

from collections.abc import Sequence

from stanza.exchanges.names import WHOLE, Compression
from stanza.planner.costs import Costs, RanksCostsAt, costs_of
from stanza.planner.simulated.steps import (
    STEPS,
    Simulated,
    backward_tasks,
    buckets,
    memory_of,
    played,
    ring_backward,
    stream,
    updates,
    work,
    worker_classes,
)
from stanza.workers.messages import SMALLEST_MESSAGE_BYTES
from systems.clusters.host import Host
from systems.faulty import Network
from systems.program import Program
from systems.rank_classes import RankClass


def ddp(
    at: RanksCostsAt,
    shares: Sequence[int],
    network: Network,
    compression: Compression = WHOLE,
    *,
    every_rank: bool = False,
    steps: int = STEPS,
) -> Simulated:
    """Play DDP: forward passes, then backward passes in which full buckets are all-reduced.

    Args:
        at: the model's costs as a function of the batch, on all devices or on each rank's.
        shares: the number of samples of each worker in a step.
        compression: how much travels of the gradients.
        every_rank: plays each rank. Otherwise workers with equally many samples, which cannot
            differ, are played once; the result is the same.
        steps: how many steps are played.
    """
    workers = worker_classes(shares, every_rank=every_rank)
    costs = _costs(at, workers, shares)
    program, ends, backward = Program(network.latency_s), list[int](), [c.backward for c in costs]
    memory = memory_of(network)
    for _ in range(steps):
        starts = _forward(program, memory, costs, workers, ends[-1:])
        reduced = ring_backward(program, memory, backward, workers, starts, "backward", compression)
        updated = updates(program, memory, backward, workers, [reduced])
        ends.append(program.join(updated, name="step"))
    return played(program, ends, sum(shares), network, workers)


def _costs(at: RanksCostsAt, workers: Sequence[RankClass], shares: Sequence[int]) -> list[Costs]:
    """Compute what the share of a worker of each class costs on its device. Workers are the first
    ranks."""
    return [costs_of(at, one.played, shares[one.played]) for one in workers]


def _forward(
    program: Program,
    memory: Host,
    costs: Sequence[Costs],
    workers: Sequence[RankClass],
    after: Sequence[int],
) -> list[int]:
    """Add the forward pass of the whole model for each class of workers, after these tasks."""
    seconds = [memory.step_s + cost.conv_forward_s + cost.fc_forward_s for cost in costs]
    return [
        program.compute(stream(one.played), each, name="forward", after=after)
        for one, each in zip(workers, seconds, strict=True)
    ]


def ps_dedicated(
    at: RanksCostsAt,
    shares: Sequence[int],
    servers: int,
    network: Network,
    *,
    pipelined: bool,
    compression: Compression = WHOLE,
    every_rank: bool = False,
    steps: int = STEPS,
) -> Simulated:
    """Play dedicated servers, all of which have equal parts of the model and cannot differ.

    If `pipelined`, every bucket is pushed as soon as the backward pass has filled it, and pulled as
    soon as the server has it from all workers. Otherwise the whole model is one bucket. For the
    other arguments see `ddp`.
    """
    workers = worker_classes(shares, every_rank=every_rank)
    costs, ranks = _costs(at, workers, shares), len(shares)
    alike = [RankClass(tuple(range(ranks, ranks + servers)))]
    if every_rank:
        alike = [RankClass((rank,)) for rank in alike[0].ranks]
    rows = buckets([cost.backward for cost in costs], SMALLEST_MESSAGE_BYTES * servers)
    messages = 1
    if not pipelined:  # what are several messages is one bucket
        messages = sum(1 for row in rows if row[0][1])
        rows = buckets([cost.backward for cost in costs], float("inf"))
    memory = memory_of(network)
    program, ends = Program(network.latency_s), list[int]()
    for _ in range(steps):
        now = _forward(program, memory, costs, workers, ends[-1:])
        pushed: dict[tuple[int, int], int] = {}  # a pair's messages follow one another
        pulled: dict[tuple[int, int], int] = {}
        arrived: list[list[int]] = []
        for row in rows:
            size_bytes = row[0][1]
            now = backward_tasks(program, row, workers, now, "backward")
            now = _copies(program, memory, size_bytes, workers, [[task] for task in now], "pack")
            served_s = _serving_s(memory, size_bytes / servers, ranks)
            for one in alike:
                sent = size_bytes * compression.factor / servers
                _serve(program, workers, now, one, sent, messages, served_s, pushed, pulled)
            arrived.append(list(pulled.values()))
        # At the end every worker loads each bucket into the model, once all parts of it are there.
        for row, last_pulls in zip(rows, arrived, strict=True):
            of_class = [last_pulls[number :: len(workers)] for number in range(len(workers))]
            after = [[task, *theirs] for task, theirs in zip(now, of_class, strict=True)]
            now = _copies(program, memory, row[0][1], workers, after, "load")
        ends.append(program.join([*now, *pulled.values()], name="step"))
    return played(program, ends, sum(shares), network, [*workers, *alike])


def _copies(
    program: Program,
    memory: Host,
    size_bytes: float,
    workers: Sequence[RankClass],
    after: Sequence[Sequence[int]],
    name: str,
) -> list[int]:
    """Add a copy of a bucket for each class of workers."""
    seconds = memory.copy.seconds(size_bytes) if size_bytes else 0.0
    return [
        work(program, stream(one.played), seconds, name, tasks)
        for one, tasks in zip(workers, after, strict=True)
    ]


def _serving_s(memory: Host, size_bytes: float, workers: int) -> float:
    """The core seconds of a server's sum and update of its slice of a bucket."""
    if not size_bytes:
        return 0.0
    return memory.add.seconds(size_bytes) * (workers - 1) + memory.update.seconds(size_bytes)


def _serve(
    program: Program,
    workers: Sequence[RankClass],
    ready: Sequence[int],
    servers: RankClass,
    size_bytes: float,
    messages: int,
    served_s: float,
    pushed: dict[tuple[int, int], int],
    pulled: dict[tuple[int, int], int],
) -> None:
    """Add one bucket's messages between all workers and one class of servers, and what the servers
    do to it.

    Args:
        ready: the task of each class of workers after which it may push.
        messages: how many messages the bucket is.
        served_s: the core seconds in which a server sums and updates its slice.
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
            count=messages,
            name="push",
            after=[before, *earlier],
        )
    all_pushed = [pushed[one.played, server] for one in workers]
    updated = work(program, stream(server), served_s, "update", all_pushed)
    for one in workers:
        rank = one.played
        earlier = [pulled[rank, server]] if (rank, server) in pulled else []
        pulled[rank, server] = program.flow(
            server,
            rank,
            size_bytes,
            sent=one.count,
            received=servers.count,
            count=messages,
            name="pull",
            after=[updated, *earlier],
        )


def ps_sharded(
    at: RanksCostsAt,
    shares: Sequence[int],
    network: Network,
    compression: Compression = WHOLE,
    *,
    every_rank: bool = False,
    steps: int = STEPS,
) -> Simulated:
    """Play pipelined servers, one beside every worker. Pushes and pulls share the interfaces.

    For the arguments see `ddp`.
    """
    workers = worker_classes(shares, every_rank=every_rank)
    costs, ranks = _costs(at, workers, shares), len(shares)
    rows = buckets([cost.backward for cost in costs], SMALLEST_MESSAGE_BYTES * ranks)
    program, ends, nodes = Program(network.latency_s), list[int](), [one.played for one in workers]
    memory, others = memory_of(network), ranks - 1
    for _ in range(steps):
        now = _forward(program, memory, costs, workers, ends[-1:])
        pushes, pulls = list[int](), list[int]()
        for row in rows:
            size_bytes = row[0][1]
            now = backward_tasks(program, row, workers, now, "backward")
            now = _copies(program, memory, size_bytes, workers, [[task] for task in now], "pack")
            part = size_bytes * compression.factor * others / ranks
            after = [*now, *pushes[-1:]]
            pushes.append(
                program.exchange(nodes, part, messages=1, peers=others, name="push", after=after)
            )
            # What a rank sends to its own server and back is copied four times instead.
            slice_bytes = size_bytes / ranks
            served_s = _serving_s(memory, slice_bytes, ranks)
            served_s += 4 * memory.copy.seconds(slice_bytes) if size_bytes else 0.0
            served = [
                work(program, f"server {rank}", served_s, "update", pushes[-1:]) for rank in nodes
            ]
            after = [*served, *pulls[-1:]]
            pulls.append(
                program.exchange(nodes, part, messages=1, peers=others, name="pull", after=after)
            )
        for row, pull in zip(rows, pulls, strict=True):
            now = _copies(
                program, memory, row[0][1], workers, [[task, pull] for task in now], "load"
            )
        ends.append(program.join([*now, *pulls[-1:]], name="step"))
    return played(program, ends, sum(shares), network, workers)
