"""Every scheme's step as tasks for `systems.simulate`: the third way to know a step time.

The planner (stanza.predict) writes a step as a recurrence, the run measures it; here it is a graph
of tasks on every node, and the simulator finds out what waits for what. The schedules are those of
the code in this package. Nodes are numbered as ranks: those with data first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stanza.layout import Layout
from stanza.options import Options
from stanza.parameter_server import SMALLEST_MESSAGE_BYTES
from stanza.predict import BUCKET_BYTES, Costs, CostsAt
from systems.cluster import Link
from systems.schema import InputError
from systems.simulate import Program, Timeline, simulate

STEPS = 5
"""A step is repeated this often; the period of the last two is the step time."""

Segment = tuple[float, float]
"""Backward seconds and then parameter bytes that are ready to be exchanged."""


@dataclass(frozen=True)
class Simulated:
    """A scheme's steps, played out."""

    step_s: float
    samples: int
    """Samples of one step over all workers."""
    timeline: Timeline

    @property
    def samples_per_s(self) -> float:
        """Throughput."""
        return self.samples / self.step_s


def segments(backward: Sequence[Segment], least_bytes: float) -> list[Segment]:
    """Layers in backward order, joined into buckets of at least this size."""
    joined: list[Segment] = []
    seconds = size = 0.0
    for layer_s, layer_bytes in backward:
        seconds, size = seconds + layer_s, size + layer_bytes
        if size >= least_bytes:
            joined.append((seconds, size))
            seconds = size = 0.0
    if seconds or size:
        joined.append((seconds, size))
    return joined


def ddp(cost: Costs, workers: int, link: Link) -> Simulated:
    """Forward, then backward with a ring all-reduce of every DDP bucket as it fills."""
    program, ends = Program(link.latency_s), list[int]()
    for _ in range(STEPS):
        starts = _forward(program, cost, workers, ends[-1:])
        ends.append(_ring_backward(program, cost.backward, range(workers), starts, "backward"))
    return _played(program, ends, workers * cost.batch_size, link)


def _forward(program: Program, cost: Costs, workers: int, after: Sequence[int]) -> list[int]:
    seconds = cost.conv_forward_s + cost.fc_forward_s
    return [
        program.compute(_stream(rank), seconds, name="forward", after=after)
        for rank in range(workers)
    ]


def _stream(rank: int) -> str:
    return f"rank {rank}"


def _ring_backward(
    program: Program,
    backward: Sequence[Segment],
    ranks: Sequence[int],
    after: Sequence[int],
    name: str,
) -> int:
    """Backward passes of `ranks` (each after its own task of `after`), their gradients all-reduced
    bucket by bucket; returns the end of both."""
    n, now, wire = len(ranks), list(after), list[int]()
    for seconds, size in segments(backward, BUCKET_BYTES):
        now = [
            program.compute(_stream(rank), seconds, name=name, after=[before])
            for rank, before in zip(ranks, now, strict=True)
        ]
        if n > 1 and size:
            ring_bytes, messages = 2 * size * (n - 1) / n, 2 * (n - 1)
            ready = [*now, *wire[-1:]]
            wire.append(
                program.exchange(ranks, ring_bytes, messages=messages, name=name, after=ready)
            )
    return program.join([*now, *wire[-1:]], name="step")


def ps_dedicated(
    cost: Costs, workers: int, servers: int, link: Link, *, pipelined: bool
) -> Simulated:
    """Servers of their own. Blocking: one bucket, pushed after the backward pass. Pipelined: every
    bucket as soon as the backward pass has it, back as soon as the server has it from all."""
    least = SMALLEST_MESSAGE_BYTES * servers if pipelined else float("inf")
    buckets = segments(cost.backward, least)
    program, ends = Program(link.latency_s), list[int]()
    for _ in range(STEPS):
        now = _forward(program, cost, workers, ends[-1:])
        pushed: dict[tuple[int, int], int] = {}  # a pair's messages follow one another
        pulled: dict[tuple[int, int], int] = {}
        for seconds, size in buckets:
            now = [
                program.compute(_stream(rank), seconds, name="backward", after=[before])
                for rank, before in enumerate(now)
            ]
            for server in range(workers, workers + servers):
                _serve(program, now, server, size / servers, pushed, pulled)
        ends.append(program.join([*now, *pulled.values()], name="step"))
    return _played(program, ends, workers * cost.batch_size, link)


def _serve(
    program: Program,
    ready: Sequence[int],
    server: int,
    size_bytes: float,
    pushed: dict[tuple[int, int], int],
    pulled: dict[tuple[int, int], int],
) -> None:
    """All workers push one slice to a server, and pull it when the server has it from all."""
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
    """One server beside every worker, pipelined: pushes and pulls share the interfaces."""
    least = SMALLEST_MESSAGE_BYTES * workers
    buckets = segments(cost.backward, least)
    program, ends, ranks = Program(link.latency_s), list[int](), range(workers)
    for _ in range(STEPS):
        now = _forward(program, cost, workers, ends[-1:])
        pushes, pulls = list[int](), list[int]()
        for seconds, size in buckets:
            now = [
                program.compute(_stream(rank), seconds, name="backward", after=[before])
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
    return _played(program, ends, workers * cost.batch_size, link)


def stanza(
    at: CostsAt,
    local_batch: int,
    conv_workers: int,
    fc_workers: int,
    micro_batches: int,
    link: Link,
) -> Simulated:
    """Layer separation: ConvWorker's and FcWorker's schedules."""
    program, ends = Program(link.latency_s), list[int]()
    part = at(-(-local_batch // micro_batches))
    conv = range(conv_workers)
    server_of = [conv_workers + rank * fc_workers // conv_workers for rank in conv]
    fc_done: list[int] = []
    for _ in range(STEPS):
        forward = _micro_forward(program, part, conv_workers, micro_batches, ends[-1:])
        arrived = _chained_flows(program, forward, conv, server_of, part.cut_bytes, "activations")
        computed, fc_done = _fc_compute(program, at, part, server_of, arrived, fc_done)
        ready = [[row[server_of[rank] - conv_workers] for rank in conv] for row in computed]
        returned = _chained_flows(program, ready, server_of, conv, part.cut_bytes, "cut gradient")
        now = forward[-1]
        for row in returned[:-1]:
            now = [
                program.compute(
                    _stream(rank), part.conv_backward_s, name="conv backward", after=[a, b]
                )
                for rank, a, b in zip(conv, now, row, strict=True)
            ]
        last = [program.join(pair) for pair in zip(now, returned[-1], strict=True)]
        ends.append(_ring_backward(program, part.conv_backward, conv, last, "conv backward"))
    return _played(program, ends, conv_workers * local_batch, link)


def played_plan(options: Options, layout: Layout, at: CostsAt, link: Link) -> Simulated:
    """The simulated run of a resolved layout.

    Raises:
        InputError: a variant that is not simulated.
    """
    workers, servers = len(layout.data_ranks), len(layout.ranks("server"))
    batch = options.local_batch(workers)
    if layout.scheme == "stanza":
        fc_workers = len(layout.ranks("fc"))
        return stanza(at, batch, workers, fc_workers, layout.micro_batches, link)
    if layout.scheme == "ps" and servers:
        pipelined = options.ps_mode == "pipelined"
        return ps_dedicated(at(batch), workers, servers, link, pipelined=pipelined)
    if layout.scheme == "ps" and options.ps_mode == "pipelined":
        return ps_sharded(at(batch), workers, link)
    if layout.scheme == "ps":
        raise InputError(
            "--stanza.ps-mode blocking: colocated servers are simulated pipelined only; "
            "add --stanza.ps-mode pipelined"
        )
    return ddp(at(batch), workers, link)  # a single process is a ring of one


def _micro_forward(
    program: Program, part: Costs, workers: int, micro_batches: int, after: Sequence[int]
) -> list[list[int]]:
    """All micro-batches forward, one after the other: tasks by micro-batch and worker."""
    return [
        [
            program.compute(_stream(rank), part.conv_forward_s, name="conv forward", after=after)
            for rank in range(workers)
        ]
        for _ in range(micro_batches)
    ]


def _chained_flows(
    program: Program,
    ready: Sequence[Sequence[int]],
    sources: Sequence[int],
    targets: Sequence[int],
    size_bytes: float,
    name: str,
) -> list[list[int]]:
    """A message from each source to its target for every micro-batch; a pair's follow in order."""
    rows: list[list[int]] = []
    for row in ready:
        before = rows[-1] if rows else None
        rows.append(
            [
                program.flow(
                    source,
                    target,
                    size_bytes,
                    name=name,
                    after=[row[i]] if before is None else [row[i], before[i]],
                )
                for i, (source, target) in enumerate(zip(sources, targets, strict=True))
            ]
        )
    return rows


def _fc_compute(
    program: Program,
    at: CostsAt,
    part: Costs,
    server_of: Sequence[int],
    arrived: Sequence[Sequence[int]],
    after: Sequence[int],
) -> tuple[list[list[int]], list[int]]:
    """Forward and backward of every micro-batch on every FC worker, then the exchange of their
    gradients; returns tasks by micro-batch and FC worker, and what the next step must wait for."""
    servers = sorted(set(server_of))
    rows: list[list[int]] = []
    for row in arrived:
        tasks = []
        for server in servers:
            mine = [task for task, owner in zip(row, server_of, strict=True) if owner == server]
            gathered = at(part.batch_size * len(mine))
            seconds = gathered.fc_forward_s + gathered.fc_backward_s
            tasks.append(
                program.compute(_stream(server), seconds, name="fc", after=[*mine, *after])
            )
        rows.append(tasks)
    if len(servers) == 1:
        return rows, rows[-1]
    n = len(servers)
    ring_bytes, messages = 2 * part.fc_bytes * (n - 1) / n, 2 * (n - 1)
    exchange = program.exchange(
        servers, ring_bytes, messages=messages, name="fc exchange", after=rows[-1]
    )
    return rows, [exchange]


def _played(program: Program, ends: Sequence[int], samples: int, link: Link) -> Simulated:
    timeline = simulate(program, link)
    period_s = timeline.ends_s[ends[-1]] - timeline.ends_s[ends[-2]]
    return Simulated(step_s=period_s, samples=samples, timeline=timeline)
