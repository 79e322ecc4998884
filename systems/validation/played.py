"""The iteration of a pipelined, replicated job in the simulator.

[Note: the order of the measured engine]
DeepSpeed's pipeline engine, which the measured jobs ran on, plays 1F1B in steps. In a step a stage
first exchanges messages with one neighbour, then computes a forward or a backward pass:

    before a forward pass     send the gradient of the last backward pass, receive activations
    before a backward pass    receive a gradient, send the activations of the last forward pass

So activations leave only after a gradient of an earlier micro-batch has come in, and a round trip
stands in every cycle. An engine that sends at once what it has computed would hide more of it.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from systems.clusters.cluster import Link
from systems.program import Program
from systems.simulate import simulate
from systems.validation.formula import Iteration
from systems.validation.times import Message, StageTimes

SECONDS = Link(bandwidth_bits_per_s=8.0)
"""The loads of transfers are seconds: an interface moves one of these bytes in a second."""
Action = tuple[str, str, int]
"""What a stage does, with what, and the micro-batch, such as ("receive", "activation", 3)."""


def predict(stages: Sequence[StageTimes], micro_batches: int) -> Iteration:
    """Play one iteration."""
    program = Program()
    chains = [_Chain(program, stages, replica) for replica in range(len(stages[0].forward_s))]
    # The measured engine waits for all ranks before it reduces.
    together = program.join([task for one in chains for task in one.play(micro_batches)])
    reduced = [_reduce(program, number, stages, together) for number in range(len(stages))]
    for number, one in enumerate(stages):
        for replica, seconds in enumerate(one.update_s):
            stream = _stream(number, replica)
            program.compute(stream, seconds, name="update", after=[reduced[number]])
    timeline = simulate(program, SECONDS)
    reduction_s = timeline.ends_s[reduced[0]] - timeline.ends_s[together]
    return Iteration(seconds=timeline.end_s, reduction_s=reduction_s)


def _stream(stage: int, replica: int) -> str:
    """The compute stream of a replica of a stage."""
    return f"stage {stage}, replica {replica}"


def _reduce(program: Program, number: int, stages: Sequence[StageTimes], after: int) -> int:
    """Add a stage's reduction; returns the task at whose end all of its replicas are done."""
    one = stages[number]
    ready = [
        program.compute(_stream(number, replica), seconds, name="bucket", after=[after])
        for replica, seconds in enumerate(one.bucket_s)
    ]
    arrived = program.transfer(one.ring_loads_s, name=f"reduce stage {number}", after=ready)
    return program.join(
        program.compute(_stream(number, replica), one.ring_s, name="reduce", after=[arrived])
        for replica in range(len(one.bucket_s))
    )


def actions(stage: int, stages: int, micro_batches: int) -> Iterator[Action]:
    """List what a stage does in an iteration; see [Note: the order of the measured engine]."""
    behind = stages - stage - 1
    for forward in range(micro_batches + behind):
        backward = forward - behind
        if stage > 0 and backward > 0:
            yield "send", "gradient", backward - 1
        if forward < micro_batches:
            if stage > 0:
                yield "receive", "activation", forward
            yield "compute", "forward", forward
        if backward >= 0 and behind:
            yield "receive", "gradient", backward
        if forward < micro_batches and behind:
            yield "send", "activation", forward
        if backward >= 0:
            yield "compute", "backward", backward
    if stage > 0:
        yield "send", "gradient", micro_batches - 1


class _Chain:
    """Adds the tasks of one chain of replicas, in which each stage has one.

    A task can only wait for tasks that are there. So the stages' actions are walked side by side,
    and a stage whose next action needs something of a neighbour is left until that is there.
    """

    def __init__(self, program: Program, stages: Sequence[StageTimes], replica: int) -> None:
        self._program, self._stages, self._replica = program, stages, replica
        # By stage: the tasks that its next action waits for.
        self._last: list[list[int]] = [[] for _ in stages]
        # By message, which is (what, receiving stage, micro-batch): the tasks that its sender
        # waited for when it came to it, and the transfer.
        self._offered: dict[tuple[str, int, int], list[int]] = {}
        self._sent: dict[tuple[str, int, int], int] = {}
        # By (what, receiving stage): the latest message, after which the next one follows.
        self._latest: dict[tuple[str, int], int] = {}

    def play(self, micro_batches: int) -> list[int]:
        """Add all tasks; returns those that end last at each stage."""
        count = len(self._stages)
        waiting = [deque(actions(stage, count, micro_batches)) for stage in range(count)]
        while any(waiting):
            for stage, left in enumerate(waiting):
                while left and self._add(stage, *left[0]):
                    left.popleft()
        return [task for last in self._last for task in last]

    def _add(self, stage: int, action: str, what: str, micro: int) -> bool:
        """Add the tasks of one action; False if it must wait for a neighbour."""
        if action == "compute":
            return self._compute(stage, what, micro)
        return (
            self._send(stage, what, micro)
            if action == "send"
            else self._receive(stage, what, micro)
        )

    def _compute(self, stage: int, what: str, micro: int) -> bool:
        """Add a pass."""
        one = self._stages[stage]
        seconds = (one.forward_s if what == "forward" else one.backward_s)[self._replica]
        name = f"{what} {micro}"
        stream = _stream(stage, self._replica)
        self._last[stage] = [
            self._program.compute(stream, seconds, name=name, after=self._last[stage])
        ]
        return True

    def _message(self, what: str, target: int) -> Message:
        """The message that the stage `target` receives."""
        if what == "activation":
            return self._stages[target - 1].activations[self._replica]
        return self._stages[target].gradients[self._replica]

    def _send(self, stage: int, what: str, micro: int) -> bool:
        """Send an eager message, or offer a long one and wait until its receiver has taken it."""
        target = stage + 1 if what == "activation" else stage - 1
        key = what, target, micro
        if key not in self._offered:
            self._offered[key] = self._last[stage]
            if self._message(what, target).eager:
                # The buffer is free again when the message before has gone.
                before = self._latest.get((what, target))
                self._transfer(key, self._last[stage])
                self._last[stage] = [*self._last[stage], *([] if before is None else [before])]
                return True
        if key not in self._sent:
            return False
        self._last[stage] = [self._sent[key]]
        return True

    def _receive(self, stage: int, what: str, micro: int) -> bool:
        """Wait for a message; a long one begins when both sides are there."""
        key = what, stage, micro
        if key not in self._offered:
            return False
        if key not in self._sent:
            self._transfer(key, [*self._offered[key], *self._last[stage]])
        self._last[stage] = [*self._last[stage], self._sent[key]]
        return True

    def _transfer(self, key: tuple[str, int, int], after: Sequence[int]) -> None:
        """Add the transfer of a message."""
        what, target, micro = key
        before = self._latest.get((what, target))
        self._sent[key] = self._latest[what, target] = self._program.transfer(
            self._message(what, target).loads_s,
            name=f"{what} {micro}",
            after=[*after, *([] if before is None else [before])],
        )
