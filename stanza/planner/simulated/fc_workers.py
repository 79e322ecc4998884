"""Writes what FC workers do in a step as tasks, in the order of FcWorker's code.

They are replicas of the FC part, or each holds columns of its layers (`stanza.workers.columns`).
"""

from collections.abc import Sequence

from stanza.layout import Layout
from stanza.planner.costs import Costs, RanksCostsAt, costs_of
from stanza.planner.simulated.cut_classes import CutClasses
from stanza.planner.simulated.steps import stream, sums_s, update_s, work
from systems.clusters.host import FREE, Host
from systems.program import Program


def fc_step(
    program: Program,
    memory: Host,
    at: RanksCostsAt,
    parts: Sequence[Sequence[Costs]],
    layout: Layout,
    classes: CutClasses,
    arrived: Sequence[Sequence[int]],
    after: Sequence[int],
) -> tuple[list[list[int]], list[int]]:
    """Add the FC workers' passes over every micro-batch, and the exchange of their gradients.

    Args:
        parts: the costs, by micro-batch and class of CONV workers.
        arrived: the activations' messages, likewise.
        after: the tasks that must have ended first.

    Returns:
        The last task of every micro-batch for every class of FC workers, and the tasks that the
        next step on the FC workers must wait for.
    """
    fc, workers = classes.fc, sum(one.count for one in classes.fc)
    before = [list(after) for _ in fc]
    columns = layout.fc_parallel == "columns" and workers > 1
    rows: list[list[int]] = []
    layers, holders = parts[0][0].fc_backward, workers if columns else 1
    for row, costs in zip(arrived, parts, strict=True):
        # Gradients are added to those of earlier micro-batches, or to the buffers of an exchange.
        sum_s = sums_s(memory, layers) / holders if rows or workers > holders else 0.0
        begin_s = 0.0 if rows else memory.step_s
        # A pass begins once all of its CONV workers' messages are there and the last pass is over.
        ready = [
            [*(row[conv] for conv in served), *tasks]
            for served, tasks in zip(classes.conv_of, before, strict=True)
        ]
        # It is over the samples of all CONV workers that the FC worker serves.
        gathered = [
            costs_of(
                at, one.played, sum(many * costs[conv].batch_size for conv, many in served.items())
            )
            for one, served in zip(fc, classes.conv_of, strict=True)
        ]
        if columns:
            rows.append(_columns(program, memory, gathered, classes, ready, sum_s + begin_s))
        else:
            seconds = [
                memory.copy.seconds(cost.cut_bytes)
                + cost.fc_forward_s
                + cost.fc_backward_s
                + sum_s
                + begin_s
                for cost in gathered
            ]
            rows.append(_compute(program, memory, seconds, classes, ready))
        before = [[task] for task in rows[-1]]
    # Replicas all-reduce their gradients; a holder of columns has all of its own. Then they update.
    done = list(rows[-1])
    if workers > holders:
        nodes, size = [one.played for one in fc], parts[0][0].fc_bytes
        done = [program.all_reduce(nodes, size, ranks=workers, name="fc exchange", after=done)]
    seconds_each = update_s(memory, layers) / holders
    return rows, [
        work(program, _fc_stream(memory, one.played), seconds_each, "fc update", done) for one in fc
    ]


def _fc_stream(memory: Host, rank: int) -> str:
    """Name the compute stream of an FC worker: that of its rank, or, on the cores of a host, a
    thread of its own, as in a run."""
    return stream(rank) if memory is FREE else f"{stream(rank)} fc"


def _compute(
    program: Program,
    memory: Host,
    seconds: Sequence[float],
    classes: CutClasses,
    ready: Sequence[Sequence[int]],
) -> list[int]:
    """Add one task of so many seconds on each class of FC workers, which starts after the tasks in
    `ready`."""
    return [
        program.compute(_fc_stream(memory, one.played), lasts_s, name="fc", after=tasks)
        for one, lasts_s, tasks in zip(classes.fc, seconds, ready, strict=True)
    ]


def _columns(
    program: Program,
    memory: Host,
    gathered: Sequence[Costs],
    classes: CutClasses,
    ready: Sequence[Sequence[int]],
    more_s: float,
) -> list[int]:
    """Add the passes of FC workers that hold columns over one gathered micro-batch, whose costs on
    a worker of each class are given.

    Each of the f workers does 1/f of every layer's work. Outputs are reduce-scattered forward, and
    their gradients all-gathered backward. Each has `more_s` to do besides. Returns the last task of
    each class.
    """
    nodes, f = [one.played for one in classes.fc], sum(one.count for one in classes.fc)
    now = [list(tasks) for tasks in ready]

    def work(seconds: Sequence[float]) -> None:
        """Let every worker compute for the seconds of its device."""
        tasks = _compute(program, memory, seconds, classes, now)
        now[:] = [[task] for task in tasks]

    def swap(size_bytes: float, name: str) -> None:
        """Let every worker exchange its part of `size_bytes` with all others."""
        tasks = [task for of_class in now for task in of_class]
        moved = size_bytes * (f - 1) / f
        done = program.exchange(nodes, moved, messages=1, peers=f - 1, name=name, after=tasks)
        now[:] = [[done]] * len(nodes)

    sizes_bytes = [layer.output_bytes for layer in gathered[0].fc_layers]
    for index, size_bytes in enumerate(sizes_bytes):
        work([costs.fc_layers[index].forward_s / f for costs in gathered])
        swap(size_bytes, "reduce-scatter")
    for index, size_bytes in reversed(list(enumerate(sizes_bytes))):
        swap(size_bytes, "all-gather")
        work([costs.fc_layers[index].backward_s / f for costs in gathered])
    if more_s:
        work([more_s] * len(gathered))
    return [tasks[0] for tasks in now]
