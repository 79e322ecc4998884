"""Writes the step of layer separation as tasks, in the order of ConvWorker's and FcWorker's code.

FC workers may be replicas or hold columns, and may be dedicated or colocated with CONV workers. A
node with both roles has one compute stream, which takes the tasks of both as they get ready; ranks
that share the cores of a host have a thread for each role.
`stanza.workers.conv_worker` has a picture of a step. Who cannot differ is played once, see
`stanza.planner.simulated.cut_classes`.
"""

from collections.abc import Sequence

from stanza.layout import Layout
from stanza.planner.costs import Costs, RanksCostsAt, costs_of
from stanza.planner.simulated.cut_classes import CutClasses, cut_classes
from stanza.planner.simulated.fc_workers import fc_step
from stanza.planner.simulated.steps import (
    STEPS,
    Simulated,
    memory_of,
    played,
    ring_backward,
    stream,
    sums_s,
    updates,
    work,
)
from systems.data.shares import even_shares
from systems.fair_links import Resource
from systems.faulty import Network
from systems.program import Program
from systems.schema import InputError

SHARED_SLICES = 8
"""The number of tasks that make a pass on a node with both roles. Between them the device can take
the FC worker's tasks, as it does between the layers of a pass."""
ACTIVATIONS = "activations"
"""The name of the messages that carry activations."""
Message = tuple[dict[Resource, float], float]
"""One micro-batch of a class of CONV workers on the links: the bytes through each interface, and
the bytes that a single CONV worker sends or receives."""


def separated(
    at: RanksCostsAt,
    shares: Sequence[int],
    layout: Layout,
    network: Network,
    *,
    every_rank: bool = False,
    steps: int = STEPS,
) -> Simulated:
    """Play layer separation in this layout.

    Args:
        at: the model's costs as a function of the batch, on all devices or on each rank's.
        shares: the number of samples of each CONV worker in a step.
        every_rank: plays each rank, also those that cannot differ; the result is the same.
        steps: how many steps are played.

    Raises:
        InputError: the layout has columns, and the FC part is no chain of Linear layers.
    """
    program, ends = Program(network.latency_s), list[int]()
    memory = memory_of(network)
    if layout.fc_parallel == "columns" and not costs_of(at, 0, 1).fc_layers:
        raise InputError(
            "--stanza.fc-parallel columns: the profile's fully connected part is no chain of "
            "Linear and elementwise layers; give --stanza.fc-parallel replicas"
        )
    classes = cut_classes(layout, shares, every_rank=every_rank)
    parts = _micro_batches(at, classes, layout.micro_batches)
    activations, gradients = (
        _messages(classes, parts, *ways) for ways in (("out", "in"), ("in", "out"))
    )
    last_backward = [part.conv_backward for part in parts[-1]]

    def backward_s(part: Costs) -> float:
        """A backward pass, whose gradients are added to those that are there."""
        copy_s = memory.copy.seconds(part.cut_bytes)
        return copy_s + part.conv_backward_s + sums_s(memory, part.conv_backward)

    fc_done: list[int] = []
    both = layout.fc_placement == "colocated"
    slices = SHARED_SLICES if both else 1
    for _ in range(steps):
        # All micro-batches go forward, and their activations travel to the FC workers.
        begun = [
            work(program, stream(one.played), memory.step_s, "batch", ends[-1:])
            for one in classes.conv
        ]
        forward = _forward(program, parts, classes, begun, slices)
        sent = [[[task] for task in row] for row in forward]
        arrived = _chained(program, sent, activations, ACTIVATIONS)
        # The FC workers run them forward and backward, and send the gradients back.
        computed, fc_done = fc_step(program, memory, at, parts, layout, classes, arrived, fc_done)
        ready = [[[row[fc] for fc in targets] for targets in classes.fc_of] for row in computed]
        returned = _chained(program, ready, gradients, "cut gradient")
        # The CONV workers run them backward. The all-reduce overlaps the last of these passes.
        now = forward[-1]
        for row, costs in zip(returned[:-1], parts[:-1], strict=True):
            now = [
                _pass(program, one.played, backward_s(part), "conv backward", [a, b], slices)
                for one, part, a, b in zip(classes.conv, costs, now, row, strict=True)
            ]
        last = [program.join(pair) for pair in zip(now, returned[-1], strict=True)]
        reduced = ring_backward(program, memory, last_backward, classes.conv, last, "conv backward")
        updated = updates(program, memory, last_backward, classes.conv, [reduced])
        end = program.join(updated, name="step")
        # A node with both roles ends its step when both have.
        ends.append(program.join([end, *fc_done], name="step") if both else end)
    return played(program, ends, sum(shares), network, classes.all)


def _micro_batches(at: RanksCostsAt, classes: CutClasses, micro_batches: int) -> list[list[Costs]]:
    """The costs of every micro-batch on a CONV worker of each class: a row for each micro-batch."""
    sizes = [even_shares(share, micro_batches) for share in classes.shares]
    return [
        [costs_of(at, one.played, size) for one, size in zip(classes.conv, row, strict=True)]
        for row in zip(*sizes, strict=True)
    ]


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
    classes: CutClasses,
    after: Sequence[int],
    slices: int,
) -> list[list[int]]:
    """Add the forward passes of all micro-batches, one after the other on each CONV worker.

    Args:
        parts: the costs, by micro-batch and class of CONV workers.
        after: the task of each class after which its first pass starts.

    Returns:
        A row for each micro-batch, with the last task of every class.
    """
    rows: list[list[int]] = []
    for costs in parts:
        before = [[task] for task in (rows[-1] if rows else after)]
        rows.append(
            [
                _pass(program, one.played, part.conv_forward_s, "conv forward", tasks, slices)
                for one, part, tasks in zip(classes.conv, costs, before, strict=True)
            ]
        )
    return rows


def _messages(
    classes: CutClasses, parts: Sequence[Sequence[Costs]], own_way: str, their_way: str
) -> list[list[Message]]:
    """The messages of all micro-batches one way, by micro-batch and class; see `_message`."""
    return [
        [
            _message(classes, number, part.cut_bytes, own_way, their_way)
            for number, part in enumerate(row)
        ]
        for row in parts
    ]


def _message(
    classes: CutClasses, conv: int, cut_bytes: float, own_way: str, their_way: str
) -> Message:
    """Compute what one micro-batch of a class of CONV workers loads on the links.

    Each FC worker of a CONV worker has an even slice. A slice for an FC worker on the same rank
    loads none.

    Args:
        conv: the number of the class.
        own_way: "out" where the CONV workers send, "in" where they receive.
        their_way: the other of the two.
    """
    slice_bytes = cut_bytes / sum(classes.fc_of[conv].values())
    others = sum(classes.sent[conv].values())
    if not others:
        return {}, 0.0
    loads: dict[Resource, float] = {(classes.conv[conv].played, own_way): slice_bytes * others}
    for fc, received in classes.received[conv].items():
        loads[classes.fc[fc].played, their_way] = slice_bytes * received
    return loads, slice_bytes * others


def _chained(
    program: Program,
    ready: Sequence[Sequence[Sequence[int]]],
    messages: Sequence[Sequence[Message]],
    name: str,
) -> list[list[int]]:
    """Add one message for each micro-batch and class of CONV workers; those of a class follow one
    another.

    Args:
        ready: the tasks that each message waits for, by micro-batch and class.
        messages: the messages, likewise.

    Returns:
        The messages' tasks, by micro-batch and class.
    """
    rows: list[list[int]] = []
    for row, of_row in zip(ready, messages, strict=True):
        before = [[task] for task in rows[-1]] if rows else [[]] * len(row)
        each = 1 if rows or name != ACTIVATIONS else 2  # labels go with the first activations
        rows.append(
            [
                program.transfer(
                    loads,
                    count=each * (len(loads) - 1),
                    pace_bytes=pace_bytes,
                    name=name,
                    after=[*tasks, *earlier],
                )
                if loads
                else program.join([*tasks, *earlier], name=name)
                for (loads, pace_bytes), tasks, earlier in zip(of_row, row, before, strict=True)
            ]
        )
    return rows
