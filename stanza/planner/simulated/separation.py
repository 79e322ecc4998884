"""Writes the step of layer separation as tasks, in the order of ConvWorker's and FcWorker's code.

FC workers may be replicas or hold columns, and may be dedicated or colocated with CONV workers. A
node with both roles has one compute stream, which takes the tasks of both as they get ready.
`stanza.workers.conv_worker` has a picture of a step.
"""

from collections.abc import Mapping, Sequence

from stanza.layout import Layout
from stanza.planner.costs import Costs, CostsAt
from stanza.planner.simulated.steps import STEPS, Network, Simulated, played, ring_backward, stream
from systems.data.shares import even_shares
from systems.fair_links import Interface
from systems.schema import InputError
from systems.simulate import Program

SHARED_SLICES = 8
"""The number of tasks that make a pass on a node with both roles. Between them the device can take
the FC worker's tasks, as it does between the layers of a pass."""


def separated(
    at: CostsAt, shares: Sequence[int], layout: Layout, network: Network, *, steps: int = STEPS
) -> Simulated:
    """Play layer separation in this layout.

    Args:
        at: the model's costs as a function of the batch.
        shares: the number of samples of each CONV worker in a step.
        steps: how many steps are played.

    Raises:
        InputError: the layout has columns, and the FC part is no chain of Linear layers.
    """
    program, ends = Program(network.latency_s), list[int]()
    if layout.fc_parallel == "columns" and not at(1).fc_layers:
        raise InputError(
            "--stanza.fc-parallel columns: the profile's fully connected part is no chain of "
            "Linear and elementwise layers; give --stanza.fc-parallel replicas"
        )
    parts = _micro_batches(at, shares, layout.micro_batches)
    conv = layout.ranks("conv")
    fc_of = {rank: layout.fc_of(rank) for rank in conv}
    activations, gradients = (
        [
            [
                _loads(rank, fc_of[rank], part.cut_bytes, *ways)
                for rank, part in zip(conv, row, strict=True)
            ]
            for row in parts
        ]
        for ways in (("out", "in"), ("in", "out"))
    )
    last_backward = [part.conv_backward for part in parts[-1]]
    fc_done: list[int] = []
    both = layout.fc_placement == "colocated"
    slices = SHARED_SLICES if both else 1
    for _ in range(steps):
        # All micro-batches go forward, and their activations travel to the FC workers.
        forward = _forward(program, parts, conv, ends[-1:], slices)
        sent = [[[task] for task in row] for row in forward]
        arrived = _chained(program, sent, activations, "activations")
        # The FC workers run them forward and backward, and send the gradients back.
        computed, fc_done = _fc_step(program, at, parts, layout, fc_of, arrived, fc_done)
        ready = [[[row[fc] for fc in fc_of[rank]] for rank in conv] for row in computed]
        returned = _chained(program, ready, gradients, "cut gradient")
        # The CONV workers run them backward. The all-reduce overlaps the last of these passes.
        now = forward[-1]
        for row, costs in zip(returned[:-1], parts[:-1], strict=True):
            now = [
                _pass(program, rank, part.conv_backward_s, "conv backward", [a, b], slices)
                for rank, part, a, b in zip(conv, costs, now, row, strict=True)
            ]
        last = [program.join(pair) for pair in zip(now, returned[-1], strict=True)]
        end = ring_backward(program, last_backward, conv, last, "conv backward")
        # A node with both roles ends its step when both have.
        ends.append(program.join([end, *fc_done], name="step") if both else end)
    return played(program, ends, sum(shares), network)


def _micro_batches(at: CostsAt, shares: Sequence[int], micro_batches: int) -> list[list[Costs]]:
    """The costs of every micro-batch on each CONV worker: a row for each micro-batch."""
    sizes = [even_shares(share, micro_batches) for share in shares]
    return [[at(size) for size in row] for row in zip(*sizes, strict=True)]


def _pass(
    program: Program, rank: int, seconds: float, name: str, after: Sequence[int], slices: int
) -> int:
    """Add one pass through the convolutional part on a rank, forward or backward as `name` says.

    The pass is a chain of `slices` equally long tasks. After each of them the compute stream of the
    rank may do something else first. Returns the number of the last task.
    """
    tasks = list(after)
    for _ in range(slices):
        tasks = [program.compute(stream(rank), seconds / slices, name=name, after=tasks)]
    return tasks[0]


def _forward(
    program: Program,
    parts: Sequence[Sequence[Costs]],
    conv: Sequence[int],
    after: Sequence[int],
    slices: int,
) -> list[list[int]]:
    """Add the forward passes of all micro-batches, one after the other on each CONV worker.

    Args:
        parts: the costs, by micro-batch and CONV worker.

    Returns:
        A row for each micro-batch, with the last task of every CONV worker.
    """
    rows: list[list[int]] = []
    for costs in parts:
        before = [[task] for task in rows[-1]] if rows else [list(after)] * len(conv)
        rows.append(
            [
                _pass(program, rank, part.conv_forward_s, "conv forward", tasks, slices)
                for rank, part, tasks in zip(conv, costs, before, strict=True)
            ]
        )
    return rows


def _loads(
    rank: int, fc_ranks: Sequence[int], cut_bytes: float, own_way: str, their_way: str
) -> dict[Interface, float]:
    """The bytes that one micro-batch of a CONV worker puts on each network interface.

    Each of its FC workers has an even slice. A slice for an FC worker on the same rank loads none.

    Args:
        own_way: "out" where the CONV worker sends, "in" where it receives.
        their_way: the other of the two.
    """
    others = [fc for fc in fc_ranks if fc != rank]
    slice_bytes = cut_bytes / len(fc_ranks)
    loads: dict[Interface, float] = {(fc, their_way): slice_bytes for fc in others}
    return {(rank, own_way): slice_bytes * len(others), **loads} if others else {}


def _chained(
    program: Program,
    ready: Sequence[Sequence[Sequence[int]]],
    loads: Sequence[Sequence[Mapping[Interface, float]]],
    name: str,
) -> list[list[int]]:
    """Add one message for each micro-batch and CONV worker; those of a worker follow one another.

    Args:
        ready: the tasks that each message waits for, by micro-batch and CONV worker.
        loads: the bytes that each message puts on the interfaces, likewise.

    Returns:
        The messages' tasks, by micro-batch and CONV worker.
    """
    rows: list[list[int]] = []
    for row, of_row in zip(ready, loads, strict=True):
        before = [[task] for task in rows[-1]] if rows else [[]] * len(row)
        rows.append(
            [
                program.transfer(load, name=name, after=[*tasks, *earlier])
                if load
                else program.join([*tasks, *earlier], name=name)
                for load, tasks, earlier in zip(of_row, row, before, strict=True)
            ]
        )
    return rows


def _fc_step(
    program: Program,
    at: CostsAt,
    parts: Sequence[Sequence[Costs]],
    layout: Layout,
    fc_of: Mapping[int, Sequence[int]],
    arrived: Sequence[Sequence[int]],
    after: Sequence[int],
) -> tuple[list[dict[int, int]], list[int]]:
    """Add the FC workers' passes over every micro-batch, and the exchange of their gradients.

    Args:
        parts: the costs, by micro-batch and CONV worker.
        fc_of: the FC workers of each CONV worker.
        arrived: the activations' messages, by micro-batch and CONV worker.
        after: the tasks that must have ended first.

    Returns:
        The last task of every micro-batch on every FC worker, and the tasks that the next step on
        the FC workers must wait for.
    """
    conv, fc = list(fc_of), layout.ranks("fc")
    served = {rank: [i for i, c in enumerate(conv) if rank in fc_of[c]] for rank in fc}
    before = {rank: list(after) for rank in fc}
    columns = layout.fc_parallel == "columns" and len(fc) > 1
    rows: list[dict[int, int]] = []
    for row, costs in zip(arrived, parts, strict=True):
        ready = {rank: [*(row[i] for i in served[rank]), *before[rank]] for rank in fc}
        if columns:
            gathered = at(sum(part.batch_size for part in costs))
            rows.append(_columns(program, gathered, ready))
        else:
            of_rank = {rank: at(sum(costs[i].batch_size for i in served[rank])) for rank in fc}
            seconds = {
                rank: cost.fc_forward_s + cost.fc_backward_s for rank, cost in of_rank.items()
            }
            rows.append(_compute(program, seconds, ready))
        before = {rank: [task] for rank, task in rows[-1].items()}
    done = list(rows[-1].values())
    if columns or len(fc) == 1:
        return rows, done
    return rows, [program.all_reduce(fc, parts[0][0].fc_bytes, name="fc exchange", after=done)]


def _compute(
    program: Program, seconds: Mapping[int, float], ready: Mapping[int, Sequence[int]]
) -> dict[int, int]:
    """Add one task of so many seconds on each FC worker, which starts after the tasks in
    `ready`."""
    return {
        rank: program.compute(stream(rank), seconds[rank], name="fc", after=tasks)
        for rank, tasks in ready.items()
    }


def _columns(
    program: Program, gathered: Costs, ready: Mapping[int, Sequence[int]]
) -> dict[int, int]:
    """Add the passes of FC workers that hold columns over one gathered micro-batch.

    Each does 1/f of every layer's work. Outputs are reduce-scattered forward, and their gradients
    all-gathered backward. Returns the last task of each worker.
    """
    fc, f = list(ready), len(ready)
    now = {rank: list(tasks) for rank, tasks in ready.items()}

    def work(seconds: float) -> None:
        """Every worker computes its part of `seconds`."""
        tasks = _compute(program, dict.fromkeys(fc, seconds / f), now)
        now.update({rank: [task] for rank, task in tasks.items()})

    def swap(size_bytes: float, name: str) -> None:
        """Every worker exchanges its part of `size_bytes` with all others."""
        tasks = [task for rank in fc for task in now[rank]]
        moved = size_bytes * (f - 1) / f
        done = program.exchange(fc, moved, messages=1, name=name, after=tasks)
        now.update({rank: [done] for rank in fc})

    for layer in gathered.fc_layers:
        work(layer.forward_s)
        swap(layer.output_bytes, "reduce-scatter")
    for layer in reversed(gathered.fc_layers):
        swap(layer.output_bytes, "all-gather")
        work(layer.backward_s)
    return {rank: tasks[0] for rank, tasks in now.items()}
