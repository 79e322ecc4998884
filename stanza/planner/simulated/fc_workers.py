"""Writes what FC workers do in a step as tasks, in the order of FcWorker's code.

They are replicas of the FC part, or each holds columns of its layers (`stanza.workers.columns`).
"""

from collections.abc import Mapping, Sequence

from stanza.layout import Layout
from stanza.planner.costs import Costs, CostsAt
from stanza.planner.simulated.steps import stream, sums_s, update_s, work
from systems.clusters.host import FREE, Host
from systems.simulate import Program


def fc_step(
    program: Program,
    memory: Host,
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
    layers, holders = parts[0][0].fc_backward, len(fc) if columns else 1
    for row, costs in zip(arrived, parts, strict=True):
        ready = {rank: [*(row[i] for i in served[rank]), *before[rank]] for rank in fc}
        sum_s = sums_s(memory, layers) / holders if rows or len(fc) > holders else 0.0
        begin_s = 0.0 if rows else memory.step_s
        if columns:
            gathered = at(sum(part.batch_size for part in costs))
            rows.append(_columns(program, memory, gathered, ready, sum_s + begin_s))
        else:
            of_rank = {rank: at(sum(costs[i].batch_size for i in served[rank])) for rank in fc}
            seconds = {
                rank: memory.copy.seconds(cost.cut_bytes)
                + cost.fc_forward_s
                + cost.fc_backward_s
                + sum_s
                + begin_s
                for rank, cost in of_rank.items()
            }
            rows.append(_compute(program, memory, seconds, ready))
        before = {rank: [task] for rank, task in rows[-1].items()}
    done = list(rows[-1].values())
    if len(fc) > holders:
        size_bytes = parts[0][0].fc_bytes
        done = [program.all_reduce(fc, size_bytes, name="fc exchange", after=done)]
    seconds_each = update_s(memory, layers) / holders
    return rows, [
        work(program, _fc_stream(memory, rank), seconds_each, "fc update", done) for rank in fc
    ]


def _fc_stream(memory: Host, rank: int) -> str:
    """The compute stream of an FC worker: that of its rank, or, on the cores of a host, a thread of
    its own, as in a run."""
    return stream(rank) if memory is FREE else f"{stream(rank)} fc"


def _compute(
    program: Program, memory: Host, seconds: Mapping[int, float], ready: Mapping[int, Sequence[int]]
) -> dict[int, int]:
    """Add one task of so many seconds on each FC worker, which starts after the tasks in
    `ready`."""
    return {
        rank: program.compute(_fc_stream(memory, rank), seconds[rank], name="fc", after=tasks)
        for rank, tasks in ready.items()
    }


def _columns(
    program: Program,
    memory: Host,
    gathered: Costs,
    ready: Mapping[int, Sequence[int]],
    more_s: float,
) -> dict[int, int]:
    """Add the passes of FC workers that hold columns over one gathered micro-batch.

    Each does 1/f of every layer's work. Outputs are reduce-scattered forward, and their gradients
    all-gathered backward. Each has `more_s` to do besides. Returns the last task of each worker.
    """
    fc, f = list(ready), len(ready)
    now = {rank: list(tasks) for rank, tasks in ready.items()}

    def work(seconds: float) -> None:
        """Every worker computes for so many seconds."""
        tasks = _compute(program, memory, dict.fromkeys(fc, seconds), now)
        now.update({rank: [task] for rank, task in tasks.items()})

    def swap(size_bytes: float, name: str) -> None:
        """Every worker exchanges its part of `size_bytes` with all others."""
        tasks = [task for rank in fc for task in now[rank]]
        moved = size_bytes * (f - 1) / f
        done = program.exchange(fc, moved, messages=1, peers=f - 1, name=name, after=tasks)
        now.update({rank: [done] for rank in fc})

    for layer in gathered.fc_layers:
        work(layer.forward_s / f)
        swap(layer.output_bytes, "reduce-scatter")
    for layer in reversed(gathered.fc_layers):
        swap(layer.output_bytes, "all-gather")
        work(layer.backward_s / f)
    if more_s:
        work(more_s)
    return {rank: tasks[0] for rank, tasks in now.items()}
